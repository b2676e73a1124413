import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from fednnunet.demo.phantom import LABELS

DIMENSIONS = pytest.mark.parametrize("three_dimensional", [False, True], ids=["2d", "3d"])


def write(folder, three_dimensional=False, **changes):
    settings = {"training_cases": 5, "test_cases": 2, "resolution": 0.5, **changes}
    return write_hospitals(folder, three_dimensional=three_dimensional, **settings)


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@DIMENSIONS
def test_same_seed_gives_the_same_bytes_and_another_seed_other_patients(tmp_path, three_dimensional):
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        write(tmp_path / name, three_dimensional, seed=seed)
    first, second, other = (files(tmp_path / name) for name in ("first", "second", "other"))
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[path] != other[path] for path in first if path.suffix == ".gz")


def test_first_cases_are_the_same_however_many_there_are(tmp_path):
    few, many = write(tmp_path / "few"), write(tmp_path / "many", training_cases=7, test_cases=3)
    for dataset, larger in zip(few, many, strict=True):
        for case in (*dataset.training_cases, *dataset.test_cases):
            np.testing.assert_array_equal(voxels(dataset.image(case)), voxels(larger.image(case)))
            np.testing.assert_array_equal(voxels(dataset.labels(case)), voxels(larger.labels(case)))


@DIMENSIONS
def test_hospitals_differ_in_spacing_size_and_intensity(tmp_path, three_dimensional):
    datasets = write(tmp_path, three_dimensional)
    assert [dataset.name for dataset in datasets] == [
        "Dataset901_HospitalA",
        "Dataset902_HospitalB",
        "Dataset903_HospitalC",
    ]
    assert len({dataset.spacing for dataset in datasets}) == len({dataset.size for dataset in datasets}) == 3
    brightness = [np.mean([voxels(d.image(case)).mean() for case in d.training_cases]) for d in datasets]
    assert brightness[2] > 1.5 * brightness[0] > 1.5 * 1.5 * brightness[1]


@DIMENSIONS
def test_every_case_has_all_labels(tmp_path, three_dimensional):
    for dataset in write(tmp_path, three_dimensional):
        for case in (*dataset.training_cases, *dataset.test_cases):
            assert set(np.unique(voxels(dataset.labels(case)))) == set(LABELS.values())


@DIMENSIONS
def test_nnunet_reads_images_and_labels_with_the_stated_size_and_spacing(tmp_path, three_dimensional):
    for dataset in write(tmp_path, three_dimensional):
        description = json.loads((dataset.folder / "dataset.json").read_text())
        assert description["labels"] == LABELS
        found = get_filenames_of_train_images_and_targets(str(dataset.folder), description)
        assert set(found) == set(dataset.training_cases)
        assert len(found) == description["numTraining"] == 5
        for case in (dataset.training_cases[0], dataset.test_cases[-1]):
            image, properties = SimpleITKIO().read_images([str(dataset.image(case))])
            labels, of_labels = SimpleITKIO().read_seg(str(dataset.labels(case)))
            assert image.shape[-len(dataset.size) :] == dataset.size
            assert labels.shape == image.shape
            np.testing.assert_allclose(properties["spacing"][-len(dataset.spacing) :], dataset.spacing, rtol=1e-6)
            assert properties["sitk_stuff"] == of_labels["sitk_stuff"]


@DIMENSIONS
def test_resolution_changes_the_voxels_but_not_the_field_of_view(tmp_path, three_dimensional):
    coarse = write(tmp_path / "coarse", three_dimensional, training_cases=1, test_cases=1, resolution=1)
    fine = write(tmp_path / "fine", three_dimensional, training_cases=1, test_cases=1, resolution=2)
    for low, high in zip(coarse, fine, strict=True):
        extents = [np.multiply(dataset.size, dataset.spacing) for dataset in (low, high)]
        np.testing.assert_allclose(*extents, rtol=0.05)  # sizes are whole numbers
        assert low.spacing == pytest.approx([2 * step for step in high.spacing])


def test_default_numbers_of_cases_allow_five_folds(tmp_path):
    datasets = write_hospitals(tmp_path, resolution=0.2)
    for dataset, hospital in zip(datasets, HOSPITALS, strict=True):
        assert len(dataset.training_cases) == hospital.training_cases >= 5
        assert len(dataset.test_cases) == hospital.test_cases
        assert not set(dataset.training_cases) & set(dataset.test_cases)


def test_smallest_hospital_has_seen_no_dark_lesion_but_its_test_cases_have_some(tmp_path):
    dataset = write(tmp_path, training_cases=6, test_cases=6, resolution=1)[-1]

    def lesion_is_dark(case):
        image, labels = voxels(dataset.image(case)), voxels(dataset.labels(case))
        return bool(image[labels == LABELS["lesion"]].mean() < image[labels == LABELS["organ"]].mean())

    assert not any(map(lesion_is_dark, dataset.training_cases))
    assert sum(map(lesion_is_dark, dataset.test_cases)) == 3
