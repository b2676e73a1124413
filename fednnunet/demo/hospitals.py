"""Three small hospitals, as nnU-Net's raw datasets.

Their scanners differ in intensities, contrast, noise, resolution and image size, and so do their patients: the smallest
hospital has seen only one of the two kinds of lesion. Test cases may have either. A case depends only on the seed, the
hospital and its own number, so the first cases are the same however many are requested.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from fednnunet.demo.phantom import LABELS, Patient, Scanner, grid

FILE_ENDING = ".nii.gz"
FIRST_DATASET_ID = 901
DARK_LESIONS_IN_TEST_CASES = 0.5


@dataclass(frozen=True)
class Hospital:
    """A hospital: its name, its scanner and its patients.

    Parameters
    ----------
    name
        One word.
    scanner
        What it images its patients with.
    training_cases, test_cases
        How many patients it has.
    dark_lesions
        Share of the training cases with a dark lesion; among the test cases it is `DARK_LESIONS_IN_TEST_CASES`.
    size_2d, spacing_2d
        Shape of its 2D images as arrays (y, x), and the distance of the pixels in mm.
    size_3d, spacing_3d
        The same for volumes (z, y, x).
    """

    name: str
    scanner: Scanner
    training_cases: int
    dark_lesions: float
    test_cases: int
    size_2d: tuple[int, int]
    spacing_2d: tuple[float, float]
    size_3d: tuple[int, int, int]
    spacing_3d: tuple[float, float, float]


HOSPITALS = (
    Hospital(
        name="HospitalA",
        scanner=Scanner(gain=900, offset=0, contrast=1.0, bias=0.08, noise=0.04, blur=1.6),
        training_cases=20,
        dark_lesions=0.5,
        test_cases=10,
        size_2d=(48, 48),
        spacing_2d=(2.6, 2.6),
        size_3d=(24, 32, 32),
        spacing_3d=(5.2, 4.0, 4.0),
    ),
    Hospital(
        name="HospitalB",
        scanner=Scanner(gain=240, offset=30, contrast=0.85, bias=0.12, noise=0.04, blur=1.2),
        training_cases=10,
        dark_lesions=0.3,
        test_cases=10,
        size_2d=(60, 56),
        spacing_2d=(2.2, 2.2),
        size_3d=(28, 36, 36),
        spacing_3d=(4.5, 3.5, 3.5),
    ),
    Hospital(
        name="HospitalC",
        scanner=Scanner(gain=2200, offset=200, contrast=1.4, bias=0.1, noise=0.045, blur=2.0),
        training_cases=6,
        dark_lesions=0.0,
        test_cases=10,
        size_2d=(42, 44),
        spacing_2d=(2.9, 2.9),
        size_3d=(10, 32, 32),
        spacing_3d=(12.5, 3.9, 3.9),
    ),
)


@dataclass(frozen=True)
class Dataset:
    """One hospital's dataset on disk.

    Parameters
    ----------
    dataset_id
        nnU-Net's number of it.
    hospital
        Whose it is.
    folder
        Its folder in ``nnUNet_raw``.
    size, spacing
        Shape of its images as arrays, and the distance of the voxels along the same axes in mm.
    training_cases, test_cases
        Names of the cases.
    """

    dataset_id: int
    hospital: Hospital
    folder: Path
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    training_cases: tuple[str, ...]
    test_cases: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name nnU-Net knows it by, for example ``Dataset901_HospitalA``."""
        return self.folder.name

    def image(self, case: str) -> Path:
        """Return the file of a case's image."""
        return self._folder_of(case, "images") / f"{case}_0000{FILE_ENDING}"

    def labels(self, case: str) -> Path:
        """Return the file of a case's true labels."""
        return self._folder_of(case, "labels") / f"{case}{FILE_ENDING}"

    def _folder_of(self, case: str, kind: str) -> Path:
        return self.folder / f"{kind}{'Ts' if case in self.test_cases else 'Tr'}"


def write_hospitals(
    raw_folder: Path,
    *,
    three_dimensional: bool = False,
    seed: int = 0,
    hospitals: Sequence[Hospital] = HOSPITALS,
    training_cases: int | None = None,
    test_cases: int | None = None,
    resolution: float = 1.0,
) -> list[Dataset]:
    """Write one dataset for each hospital in nnU-Net's raw format, numbered from 901.

    Parameters
    ----------
    raw_folder
        The folder ``nnUNet_raw``; made if it does not exist.
    three_dimensional
        Volumes instead of 2D images.
    seed
        The same seed gives the same hospitals.
    hospitals
        Whose datasets to write.
    training_cases, test_cases
        Cases of every hospital, instead of its own numbers; nnU-Net needs 5 for its five folds.
    resolution
        Voxels along each axis, relative to the hospital's own: 0.5 halves the size and doubles the spacing.

    Returns
    -------
    datasets
        One for each hospital, in their order.
    """
    return [
        _write_hospital(
            raw_folder / f"Dataset{FIRST_DATASET_ID + index:03d}_{hospital.name}",
            hospital,
            FIRST_DATASET_ID + index,
            size=hospital.size_3d if three_dimensional else hospital.size_2d,
            spacing=hospital.spacing_3d if three_dimensional else hospital.spacing_2d,
            resolution=resolution,
            counts=(training_cases or hospital.training_cases, test_cases or hospital.test_cases),
            seed=(seed, index),
        )
        for index, hospital in enumerate(hospitals)
    ]


def _write_hospital(
    folder: Path,
    hospital: Hospital,
    dataset_id: int,
    *,
    size: tuple[int, ...],
    spacing: tuple[float, ...],
    resolution: float,
    counts: tuple[int, int],
    seed: tuple[int, ...],
) -> Dataset:
    n_train, n_test = counts
    dataset = Dataset(
        dataset_id,
        hospital,
        folder,
        tuple(max(8, round(n * resolution)) for n in size),
        tuple(step / resolution for step in spacing),
        tuple(f"{hospital.name}_{number:03d}" for number in range(n_train)),
        tuple(f"{hospital.name}_test_{number:03d}" for number in range(n_test)),
    )
    for subset in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / subset).mkdir(parents=True, exist_ok=True)
    for is_test, cases in enumerate((dataset.training_cases, dataset.test_cases)):
        share = DARK_LESIONS_IN_TEST_CASES if is_test else hospital.dark_lesions
        for number, case in enumerate(cases):
            rng = np.random.default_rng([*seed, is_test, number])
            # spread evenly, not drawn: with so few cases, chance would decide the comparison
            dark_lesion = int((number + 1) * share) > int(number * share)
            patient = Patient(rng, len(dataset.size), dark_lesion=dark_lesion)
            points = grid(dataset.size, dataset.spacing)
            _write(dataset.image(case), hospital.scanner.scan(patient, points, rng), dataset.spacing)
            _write(dataset.labels(case), patient.labels(points), dataset.spacing)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": n_train,
        "file_ending": FILE_ENDING,
        "description": f"Generated by fednnunet demo: {hospital.name}, {len(size)}D. No patient has this anatomy.",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return dataset


def _write(path: Path, array: npt.NDArray[np.int16] | npt.NDArray[np.uint8], spacing: tuple[float, ...]) -> None:
    """Write `array` with its `spacing`, both in numpy's order of axes, the middle of the image at the origin."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])  # type: ignore[no-untyped-call]
    origin = [-(n - 1) / 2 * step for n, step in zip(array.shape, spacing, strict=True)]
    image.SetOrigin(origin[::-1])  # type: ignore[no-untyped-call]
    sitk.WriteImage(image, str(path), useCompression=True)
