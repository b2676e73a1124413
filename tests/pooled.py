"""Generated federations, and what nnU-Net's own extractor and planner make of the pooled data."""

import json
import multiprocessing.pool
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from fednnunet.fingerprint.measurement import SiteMeasurement, measure_case
from fednnunet.fingerprint.sampling import samples_per_case

POOLED = "Dataset999_Pooled"
READER = "SimpleITKIO"


@dataclass(frozen=True, eq=False)
class Case:
    """images (channels, z, y, x) float32; segmentation (1, z, y, x) float32; spacing in mm."""

    images: np.ndarray
    segmentation: np.ndarray
    spacing: tuple[float, ...]


Sites = list[list[Case]]


def generate_federation(seed: int) -> Sites:
    """Return 3 to 6 sites that are CT-like or MR-like, isotropic, anisotropic or 2D, with one to three channels.

    Sites have from one case upwards and spacings, sizes and intensities of their own; now and then one has no
    foreground at all, or some of its cases have none.
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice(["isotropic", "anisotropic", "2D"])
    is_ct = bool(rng.integers(2))
    channels = int(rng.integers(1, 4))
    sites = []
    number = int(rng.integers(3, 7))
    empty_site = int(rng.integers(number)) if rng.random() < 0.25 else None
    for site in range(number):
        cases = 1 if rng.random() < 0.3 else int(rng.integers(1, 7))
        scale = rng.uniform(0.6, 1.6)
        sites.append(
            [
                _case(rng, str(kind), is_ct, channels, scale, site != empty_site and rng.random() < 0.95)
                for _ in range(cases)
            ]
        )
    if not any((case.segmentation > 0).any() for cases in sites for case in cases):
        return generate_federation(seed + 1_000_000)
    return sites


def _case(rng: np.random.Generator, kind: str, is_ct: bool, channels: int, scale: float, has_foreground: bool) -> Case:
    size = rng.integers(12, 40, 3)
    spacing = rng.choice([0.7, 0.8, 1.0], 3) * scale if rng.random() < 0.5 else np.full(3, round(scale, 2))
    if kind == "2D":
        size[0] = 1
        spacing[0] = 999
    if kind == "anisotropic":
        axis = 0 if rng.random() < 0.9 else 2
        size[axis] = rng.integers(3, 9)
        spacing[axis] = rng.choice([3.0, 5.0, 6.5, 8.0]) * scale
    shape = tuple(int(number) for number in size)
    if is_ct:
        images = np.round(rng.normal(40, 300, (channels, *shape))).clip(-1024, 3071)
    else:
        images = rng.gamma(2.0, 100 * scale, (channels, *shape))
        margin = [slice(int(rng.integers(0, 1 + number // 4)), None) for number in shape]
        outside = np.ones(shape, bool)
        outside[tuple(margin)] = False
        images[:, outside] = 0
    segmentation = np.zeros((1, *shape), np.float32)
    if has_foreground:
        part = rng.uniform(0.05, 0.4)
        segmentation[0] = rng.choice(3, shape, p=[1 - part, part / 2, part / 2])
    return Case(images.astype(np.float32), segmentation, tuple(float(number) for number in spacing))


def measure(cases: Sequence[Case], samples: int) -> SiteMeasurement:
    """Measure a site without any file."""
    return SiteMeasurement.of(measure_case(case.images, case.segmentation, case.spacing, samples) for case in cases)


def dataset_json(cases: int, channels: int) -> dict[str, Any]:
    return {
        "channel_names": {str(channel): "CT" if channel == 0 else "other" for channel in range(channels)},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": READER,
    }


class _MemoryReader:
    """Reads the cases of `cases` by their number instead of a file."""

    cases: Sequence[Case] = ()

    def read_images(self, names: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
        case = self.cases[int(Path(names[0]).name)]
        return case.images.copy(), {"spacing": list(case.spacing)}

    def read_seg(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        return self.cases[int(Path(name).name)].segmentation.copy(), {}


class Pooled:
    """nnU-Net's own extractor and planner on the pooled data, in nnU-Net folders of their own.

    Parameters
    ----------
    folder
        Where to put nnU-Net's folders.
    cases
        All cases of all sites.
    samples
        Voxels that are sampled in all, `SAMPLES` of nnU-Net, or fewer, which saves time.
    monkeypatch
        Points nnU-Net to `folder`, and to the cases in memory.
    reader
        Name of one of nnU-Net's readers, for cases in files that the caller names in ``dataset.json``.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[Case],
        samples: float,
        monkeypatch: pytest.MonkeyPatch,
        *,
        reader: str | None = None,
    ) -> None:
        self.folder = folder
        self.cases = cases
        self.samples = samples
        for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
            monkeypatch.setenv(variable, str(folder / variable))
            (folder / variable / POOLED).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("nnUNet_n_proc_DA", "1")
        content = dataset_json(len(cases), len(cases[0].images)) | {
            "dataset": {str(i): {"images": [str(i)], "label": str(i)} for i in range(len(cases))}
        }
        (self.raw / "dataset.json").write_text(json.dumps(content))
        in_memory = type("MemoryReader", (_MemoryReader,), {"cases": cases})
        chosen = in_memory if reader is None else recursive_find_reader_writer_by_name(reader)
        monkeypatch.setattr(fingerprint_extractor, "determine_reader_writer_from_dataset_json", lambda *_: chosen)
        threads = SimpleNamespace(Pool=multiprocessing.pool.ThreadPool)
        monkeypatch.setattr(fingerprint_extractor, "multiprocessing", SimpleNamespace(get_context=lambda _: threads))
        monkeypatch.setattr(fingerprint_extractor, "sleep", lambda _: os.sched_yield())

    @property
    def raw(self) -> Path:
        """The folder of ``dataset.json``."""
        return self.folder / "nnUNet_raw" / POOLED

    @property
    def samples_per_case(self) -> int:
        return samples_per_case(len(self.cases), self.samples)

    def fingerprint(self) -> dict[str, Any]:
        """Return what nnU-Net's extractor finds, as it stands in ``dataset_fingerprint.json``."""
        extractor = DatasetFingerprintExtractor(POOLED, 1)
        extractor.show_progress_bar = False
        extractor.num_foreground_voxels_for_intensitystats = self.samples
        extractor.run(overwrite_existing=True)
        return json.loads((self.folder / "nnUNet_preprocessed" / POOLED / "dataset_fingerprint.json").read_text())

    def plans(self, planner: str, **options: Any) -> dict[str, Any]:
        """Return the plans that nnU-Net's planner makes of that fingerprint."""
        name = plan_experiments([999], planner, **options)
        return json.loads((self.folder / "nnUNet_preprocessed" / POOLED / f"{name}.json").read_text())
