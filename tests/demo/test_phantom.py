import numpy as np
import pytest

from fednnunet.demo.hospitals import HOSPITALS
from fednnunet.demo.phantom import AIR, LESION, ORGAN, Blob, Patient, Scanner, SmoothNoise, grid


def test_grid_has_its_middle_at_zero_and_the_given_spacing():
    points = grid((4, 3), (2.0, 0.5))
    assert points.shape == (2, 4, 3)
    np.testing.assert_allclose(points[0, :, 0], [-3, -1, 1, 3])
    np.testing.assert_allclose(points[1, 0], [-0.5, 0, 0.5])


def test_depth_of_an_even_circle_is_the_distance_to_its_outline():
    centre = np.array([3.0, -2.0])
    circle = Blob(np.random.default_rng(0), centre, np.array([5.0, 5.0]), unevenness=0)
    points = np.random.default_rng(1).uniform(-10, 10, size=(2, 50))
    np.testing.assert_allclose(circle.depth(points), 5 - np.linalg.norm(points - centre[:, None], axis=0))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_even_ellipsoid_has_the_volume_of_its_radii(dimensions):
    radii = np.array([6.0, 9.0, 4.0])[:dimensions]
    blob = Blob(np.random.default_rng(0), np.zeros(dimensions), radii, unevenness=0)
    spacing = 0.4
    inside = blob.depth(grid((60,) * dimensions, (spacing,) * dimensions)) > 0
    exact = (np.pi if dimensions == 2 else 4 / 3 * np.pi) * radii.prod()
    assert inside.sum() * spacing**dimensions == pytest.approx(exact, rel=0.01)


def test_smooth_noise_has_mean_zero_and_standard_deviation_one():
    points = grid((60, 60), (5.0, 5.0))
    fields = np.stack([SmoothNoise(np.random.default_rng(seed), 2, (20, 60)).at(points) for seed in range(20)])
    assert abs(fields.mean()) < 0.05
    assert fields.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("dark_lesion", [False, True])
def test_lesion_lies_in_organ_in_body_and_differs_as_told(dimensions, dark_lesion):
    points = grid((24,) * dimensions, (5.0,) * dimensions)
    for seed in range(10):
        patient = Patient(np.random.default_rng(seed), dimensions, dark_lesion=dark_lesion)
        labels = patient.labels(points)
        assert set(np.unique(labels)) == {0, ORGAN, LESION}
        assert np.all(patient.organ.blob.depth(points)[labels == LESION] > 0)
        assert np.all(patient.body.depth(points)[labels > 0] > 0)
        assert (patient.lesion.signal < patient.organ.signal) == dark_lesion


def test_patient_is_the_same_on_every_grid():
    patient = Patient(np.random.default_rng(0), 2, dark_lesion=True)
    fine, coarse = grid((30, 30), (4.0, 4.0)), grid((10, 10), (12.0, 12.0))
    np.testing.assert_array_equal(patient.labels(fine)[1::3, 1::3], patient.labels(coarse))
    np.testing.assert_allclose(patient.signal(fine, 1.5)[1::3, 1::3], patient.signal(coarse, 1.5))


def test_same_patient_looks_different_on_each_scanner():
    points = grid((32, 32), (4.0, 4.0))
    patient = Patient(np.random.default_rng(0), 2, dark_lesion=False)
    images = [hospital.scanner.scan(patient, points, np.random.default_rng(1)) for hospital in HOSPITALS]
    means = sorted(float(image.mean()) for image in images)
    assert means[0] * 1.5 < means[1]
    assert means[1] * 1.5 < means[2]
    # not only another scale: nnU-Net's normalisation does not undo it
    normalised = [(image - image.mean()) / image.std() for image in images]
    assert np.abs(normalised[1] - normalised[2]).mean() > 0.1


def test_scan_without_noise_and_bias_is_gain_times_signal_plus_offset():
    scanner = Scanner(gain=1000, offset=50, contrast=1.0, bias=0, noise=0, blur=1.5)
    points = grid((16, 16), (8.0, 8.0))
    patient = Patient(np.random.default_rng(0), 2, dark_lesion=False)
    image = scanner.scan(patient, points, np.random.default_rng(3))
    assert image.dtype == np.int16
    signal = patient.signal(points, 1.5)
    draws = np.random.default_rng(3)
    gain, contrast = 1000 * draws.uniform(0.85, 1.15), draws.uniform(0.85, 1.15)
    np.testing.assert_allclose(image, 50 + gain * signal**contrast, atol=0.5)
    assert image.min() >= 50 + gain * (AIR / 2) ** contrast - 0.5
