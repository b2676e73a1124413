"""Reading a site's files: the same as nnU-Net does, once, and faults told without naming a case outside."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from skimage import io

from fednnunet.background import Stopped, Tracker
from fednnunet.errors import CaseError, FednnUNetError
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.protocol import fingerprint_of
from fednnunet.node.dataset import CaseFiles
from fednnunet.node.extraction import (
    Extraction,
    identity,
    load_measurement,
    measure_files,
    measure_site,
    save_measurement,
)
from tests.pooled import Case, Pooled, dataset_json, generate_federation, measure

SITK = Extraction("SimpleITKIO", 1, 300, (0, 1))


def _write(case: Case, folder: Path, name: str, ending: str = ".nii.gz") -> CaseFiles:
    def write_one(array: np.ndarray, path: Path) -> str:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(case.spacing[::-1])
        sitk.WriteImage(image, str(path))
        return str(path)

    images = [write_one(channel, folder / f"{name}_{index:04d}{ending}") for index, channel in enumerate(case.images)]
    return CaseFiles(name, tuple(images), write_one(case.segmentation[0].astype(np.uint8), folder / f"{name}{ending}"))


def _case(**changes: np.ndarray) -> Case:
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.normal(size=(1, 4, 8, 8)).astype(np.float32),
        "segmentation": rng.integers(0, 2, (1, 4, 8, 8)).astype(np.float32),
    }
    return Case(**{**arrays, **changes}, spacing=(3.0, 1.0, 1.0))


def _assert_equal(first: SiteMeasurement, second: SiteMeasurement) -> None:
    for name in ("spacings", "shapes", "relative_sizes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for ours, theirs in zip(first.samples, second.samples, strict=True):
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_array_equal(ours.counts, theirs.counts)


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_nifti_files_give_nnunets_own_fingerprint(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case for site in generate_federation(seed) for case in site]
    files = [_write(case, tmp_path, f"case{index}") for index, case in enumerate(cases)]
    _compare_with_nnunet(cases, files, "SimpleITKIO", tmp_path, monkeypatch)


def test_png_files_give_nnunets_own_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cases, files = [], []
    for index in range(4):
        image = rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        labels = rng.integers(0, 3, image.shape[:2], dtype=np.uint8)
        io.imsave(tmp_path / f"{index}_0000.png", image, check_contrast=False)
        io.imsave(tmp_path / f"{index}.png", labels, check_contrast=False)
        files.append(CaseFiles(str(index), (str(tmp_path / f"{index}_0000.png"),), str(tmp_path / f"{index}.png")))
        cases.append(
            Case(image.transpose(2, 0, 1)[:, None].astype(np.float32), labels[None, None].astype(np.float32), (1,))
        )
    _compare_with_nnunet(cases, files, "NaturalImage2DIO", tmp_path, monkeypatch)


def _compare_with_nnunet(
    cases: list[Case], files: list[CaseFiles], reader: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let nnU-Net's extractor, with the same samples in all, and ours read the same files."""
    pooled = Pooled(folder / "pooled", cases, 5000, monkeypatch, reader=reader)
    content = dataset_json(len(cases), len(cases[0].images)) | {
        "overwrite_image_reader_writer": reader,
        "dataset": {case.case: {"images": list(case.images), "label": case.segmentation} for case in files},
    }
    (pooled.raw / "dataset.json").write_text(json.dumps(content))
    stock = pooled.fingerprint()
    extraction = Extraction(reader, len(cases[0].images), pooled.samples_per_case, tuple(range(10)))
    ours = fingerprint_of(measure_site(files, extraction, 1, Tracker()), pooled.samples_per_case).to_nnunet()
    for fingerprint in (ours, stock):
        for channel in fingerprint["foreground_intensity_properties_per_channel"].values():
            del channel["mean"], channel["std"]
    assert ours == stock


def test_worker_processes_change_nothing_and_tell_how_far_they_are(tmp_path: Path) -> None:
    cases = [_case() for _ in range(5)]
    files = [_write(case, tmp_path, f"case{index}") for index, case in enumerate(cases)]
    alone, together = Tracker(), Tracker()
    first, second = measure_site(files, SITK, 1, alone), measure_site(files, SITK, 2, together)
    _assert_equal(first, second)
    _assert_equal(first, measure(cases, SITK.samples))
    assert (alone.done, alone.total) == (together.done, together.total) == (5, 5)


def test_work_that_shall_stop_does(tmp_path: Path) -> None:
    files = [_write(_case(), tmp_path, f"case{index}") for index in range(3)]
    tracker = Tracker()
    tracker.stop()
    for processes in (1, 2):
        with pytest.raises(Stopped):
            measure_site(files, SITK, processes, tracker)


def _with(value: float, part: str) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        array = getattr(case, part).copy()
        array[0, 1, 2, 3] = value
        return _case(**{part: array})

    return change


@pytest.mark.parametrize(
    ("change", "extraction", "problem"),
    [
        (_with(float("nan"), "images"), SITK, "has NaN or infinite voxels"),
        (_with(float("-inf"), "images"), SITK, "has NaN or infinite voxels"),
        (lambda case: case, Extraction("SimpleITKIO", 2, 300, (0, 1)), "has 1 channels, dataset.json names 2"),
        (lambda case: _case(segmentation=case.segmentation[:, :2]), SITK, "segmentation of another shape"),
        (_with(2, "segmentation"), SITK, "values in its segmentation that are not among the labels 0, 1"),
    ],
)
def test_what_is_wrong_with_a_case_is_told_outside_without_its_name(
    change: Callable[[Case], Case], extraction: Extraction, problem: str, tmp_path: Path
) -> None:
    files = _write(change(_case()), tmp_path, "MrSmith", ".mha")  # NIfTI readers turn NaN into 0
    with pytest.raises(CaseError, match=problem) as caught:
        measure_files(files, extraction)
    assert "case MrSmith" in str(caught.value)
    assert "MrSmith" not in caught.value.shareable
    assert problem in caught.value.shareable


def test_a_file_that_cannot_be_read_is_named_inside_only(tmp_path: Path) -> None:
    files = _write(_case(), tmp_path, "MrSmith")
    Path(files.images[0]).write_bytes(b"no image")
    for processes in (1, 2):
        with pytest.raises(CaseError, match="case MrSmith cannot be read") as caught:
            measure_site([files] * 3, SITK, processes, Tracker())
        assert "MrSmith" not in caught.value.shareable


def test_images_that_are_not_float32_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def read_images(self, names: object) -> tuple[np.ndarray, dict[str, object]]:
            return np.zeros((1, 2, 2, 2)), {"spacing": [1, 1, 1]}

        def read_seg(self, name: object) -> tuple[np.ndarray, dict[str, object]]:
            return np.zeros((1, 2, 2, 2)), {"spacing": [1, 1, 1]}

    monkeypatch.setattr("fednnunet.node.extraction.recursive_find_reader_writer_by_name", lambda _: Reader)
    with pytest.raises(FednnUNetError, match="read as float64, not as float32"):
        measure_files(CaseFiles("a", ("a",), "b"), SITK)


def test_spacing_files_belong_to_what_was_measured(tmp_path: Path) -> None:
    case = CaseFiles("a", (str(tmp_path / "a_0000.tif"),), str(tmp_path / "labels.tif"))
    extraction = Extraction("Tiff3DIO", 1, 300, (0, 1))
    for path in case.files[:2]:
        tifffile.imwrite(path, np.ones((3, 8, 8), np.uint8), photometric="minisblack")
    states = [identity([case], extraction)]
    assert measure_files(case, extraction).spacing.tolist() == [1, 1, 1]
    for name in ("a.json", "labels.json"):
        for spacing in ([5.0, 0.5, 0.5], [5.0, 0.25, 0.125]):
            (tmp_path / name).write_text(json.dumps({"spacing": spacing}))
            states.append(identity([case], extraction))
    assert len(set(states)) == len(states) == 5
    assert measure_files(case, extraction).spacing.tolist() == [5.0, 0.25, 0.125]


def test_a_kept_measurement_is_used_for_the_same_files_only(tmp_path: Path) -> None:
    files = [_write(_case(), tmp_path, f"case{index}") for index in range(2)]
    measurement, kept = measure_site(files, SITK, 1, Tracker()), tmp_path / "kept.npz"
    state = identity(files, SITK)
    assert load_measurement(kept, state) is None
    save_measurement(measurement, kept, state)
    again = load_measurement(kept, state)
    assert again is not None
    _assert_equal(again, measurement)
    assert identity(files, Extraction("SimpleITKIO", 1, 301, (0, 1))) != state
    assert identity(files, Extraction("SimpleITKIO", 1, 300, (0, 1, 2))) != state
    assert identity(files[:1], SITK) != state
    _write(_case(images=np.ones((1, 4, 8, 8), np.float32)), tmp_path, "case0")
    assert identity(files, SITK) != state
    assert load_measurement(kept, identity(files, SITK)) is None
    kept.write_bytes(kept.read_bytes()[:-100])
    assert load_measurement(kept, state) is None
    assert [path.name for path in tmp_path.glob("kept*")] == ["kept.npz"]
