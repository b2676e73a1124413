"""Dice and surface distances against closed forms, and against all pairs of surface points."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednnunet.evaluation.metrics import Mask, Scores, score, score_case
from fednnunet.labels import Labels

ISOTROPIC = (1.0, 1.0, 1.0)


def _box(shape: Sequence[int], start: Sequence[int], size: Sequence[int]) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))] = True
    return mask


def _ball(shape: Sequence[int], radius: float, spacing: Sequence[float], shift: float = 0.0) -> Mask:
    """Return a ball of `radius` mm around the middle, moved by `shift` mm along the last axis."""
    axes = [(np.arange(n) - n // 2) * size for n, size in zip(shape, spacing, strict=True)]
    axes[-1] = axes[-1] - shift
    grid = np.meshgrid(*axes, indexing="ij")
    return np.sqrt(sum(axis**2 for axis in grid)) <= radius


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.3)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_shifted_cube_is_as_far_away_as_it_was_shifted(spacing: tuple[float, ...], axis: int, shift: int) -> None:
    """A cube of n³ voxels, moved by s < n voxels of size d: its front, a fifth of its surface, is s d away.

    Nothing is farther away, and of n layers, n - s overlap.
    """
    n, distance = 12, shift * spacing[axis]
    moved = [8, 8, 8]
    moved[axis] += shift
    first, second = _box((32,) * 3, (8, 8, 8), (n,) * 3), _box((32,) * 3, moved, (n,) * 3)
    found = score(first, second, spacing, nsd_tolerance=distance or 0.1)
    assert found.dice == pytest.approx((n - shift) / n)
    assert found.hd95 == pytest.approx(distance)
    assert found.assd == pytest.approx(_by_all_pairs(first, second, spacing, distance).assd, abs=1e-4)
    assert found.nsd == 1


@pytest.mark.parametrize("size", [1.0, 0.6])
def test_of_a_cube_shifted_by_one_voxel_the_moved_faces_are_one_voxel_away_and_nothing_else(size: float) -> None:
    """Of 6n² - 12n + 8 surface voxels, the n² of the front are one voxel away, and of the back all but its rim."""
    n = 9
    found = score(_box((20,) * 3, (4, 4, 4), (n,) * 3), _box((20,) * 3, (4, 5, 4), (n,) * 3), (size,) * 3, size / 2)
    away = (n**2 + (n - 2) ** 2) / (6 * n**2 - 12 * n + 8)
    assert found.assd == pytest.approx(size * away)
    assert found.nsd == pytest.approx(1 - away)
    assert found.hd95 == pytest.approx(size)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.5, 0.4)])
def test_two_parallel_plates_are_apart_by_their_distance(spacing: tuple[float, float]) -> None:
    """All surface points of plates of one voxel are equally far from the other plate."""
    first, second = _box((20, 20), (3, 0), (1, 20)), _box((20, 20), (10, 0), (1, 20))
    distance = 7 * spacing[0]
    found = score(first, second, spacing, nsd_tolerance=distance)
    assert (found.dice, found.nsd) == (0, 1)
    assert found.hd95 == pytest.approx(distance)
    assert found.assd == pytest.approx(distance)
    assert score(first, second, spacing, nsd_tolerance=0.99 * distance).nsd == 0


def test_a_distance_that_equals_the_tolerance_is_within_it_whatever_its_rounding() -> None:
    for tenths in range(1, 40):
        first, second = _box((9, 9), (2, 0), (1, 9)), _box((9, 9), (3, 0), (1, 9))
        assert score(first, second, (tenths / 10, 1.0), nsd_tolerance=tenths / 10).nsd == 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_concentric_balls_are_apart_by_the_difference_of_their_radii(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(60 / size) for size in spacing)
    small, large = _ball(shape, 14, spacing), _ball(shape, 20, spacing)
    found = score(small, large, spacing, nsd_tolerance=6 + max(spacing))
    coarse = max(spacing)
    assert found.dice == pytest.approx(2 * 14**3 / (14**3 + 20**3), abs=0.01)
    assert found.assd == pytest.approx(6, abs=coarse / 2)
    assert found.hd95 == pytest.approx(6, abs=coarse)
    assert found.nsd == 1
    assert score(small, large, spacing, nsd_tolerance=6 - 2 * coarse).nsd == pytest.approx(0, abs=0.02)


def test_of_shifted_balls_the_distances_are_those_of_the_sphere() -> None:
    """To a sphere of radius R moved by s, a point at the angle θ is |√(R² - 2Rs cos θ + s²) - R| away.

    cos θ is uniform on a sphere, so mean and percentiles over the surface follow from it.
    """
    radius, shift = 25.0, 5.0
    shape = (64, 64, 72)
    found = score(_ball(shape, radius, ISOTROPIC), _ball(shape, radius, ISOTROPIC, shift), ISOTROPIC)
    cosines = np.linspace(-1, 1, 100_001)
    distances = np.abs(np.sqrt(radius**2 - 2 * radius * shift * cosines + shift**2) - radius)
    # a voxel has a part of the surface that depends on the direction, and centres stand for points
    assert found.assd == pytest.approx(distances.mean(), abs=0.3)
    assert found.hd95 == pytest.approx(np.percentile(distances, 95), abs=0.5)
    lens = math.pi * (4 * radius + shift) * (2 * radius - shift) ** 2 / 12
    assert found.dice == pytest.approx(lens / (4 / 3 * math.pi * radius**3), abs=0.005)


def test_a_slice_is_measured_as_the_2d_image_that_it_is() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 3, (2, 15, 20))
    labels = Labels({"background": 0, "a": 1, "b": 2})
    flat = score_case(truth, prediction, labels, (0.5, 2.0), 1.0)
    as_nnunet = score_case(truth[None], prediction[None], labels, (999.0, 0.5, 2.0), 1.0)
    assert flat == as_nnunet
    # in 3D every voxel of a slice would be surface, and inner ones would bring the mean down
    solid = _box((20, 20), (2, 2), (16, 16))
    assert score(solid, np.roll(solid, 1, 0), (1.0, 1.0)).assd == pytest.approx(
        _by_all_pairs(solid, np.roll(solid, 1, 0), (1.0, 1.0), 1).assd
    )


def test_the_border_of_the_image_is_surface_where_an_object_touches_it() -> None:
    """The same object, once with background around it and once cut out exactly, has the same metrics."""
    rng = np.random.default_rng(1)
    for shape in ((14, 9), (6, 8, 7)):
        spacing = (1.5, 0.8, 1.1)[: len(shape)]
        truth, prediction = (rng.random(shape) < 0.9 for _ in range(2))
        cut_out = score(truth, prediction, spacing, 1.0)
        framed = score(np.pad(truth, 4), np.pad(prediction, 4), spacing, 1.0)
        assert cut_out == framed
        assert cut_out.assd == pytest.approx(_by_all_pairs(truth, prediction, spacing, 1.0).assd, abs=1e-4)


def test_an_object_that_fills_the_image_agrees_with_itself() -> None:
    everything = np.ones((5, 6, 7), bool)
    assert score(everything, everything, ISOTROPIC, 1.0) == Scores(1.0, 0.0, 0.0, 1.0)


def test_what_neither_has_gets_no_value_and_what_one_lacks_the_worst() -> None:
    nothing, something = np.zeros((30, 40, 5), bool), _box((30, 40, 5), (3, 4, 1), (2, 2, 2))
    spacing = (1.0, 2.0, 3.0)
    assert score(nothing, nothing, spacing, 1.0) == Scores(None, None, None, None)
    diagonal = math.sqrt(30**2 + 80**2 + 15**2)
    for truth, prediction in ((nothing, something), (something, nothing)):
        found = score(truth, prediction, spacing, 1.0)
        assert (found.dice, found.nsd) == (0, 0)
        assert found.hd95 == found.assd == pytest.approx(diagonal)
    assert score(nothing, something, spacing).nsd is None


def test_without_a_tolerance_there_is_no_nsd() -> None:
    box = _box((8, 8), (1, 1), (3, 3))
    assert score(box, box, (1.0, 1.0)) == Scores(1.0, 0.0, 0.0, None)


def test_ignored_voxels_count_for_nobody() -> None:
    labels = Labels({"background": 0, "organ": 1, "lesion": 2, "ignore": 3})
    truth = np.zeros((10, 10), int)
    truth[2:8, 2:5] = 1
    truth[2:8, 5:8] = 3
    prediction = np.zeros((10, 10), int)
    prediction[2:8, 2:8] = 1
    prediction[5:8, 5:8] = 2
    scores = score_case(truth, prediction, labels, (1.0, 1.0))
    assert scores["organ"] == Scores(1.0, 0.0, 0.0, None)
    assert scores["lesion"] == Scores()  # predicted where nobody knows
    assert "ignore" not in scores


def test_a_region_is_all_of_its_labels() -> None:
    labels = Labels({"background": 0, "whole": (1, 2), "core": (2,)}, (1, 2))
    truth, prediction = np.zeros((12, 12), int), np.zeros((12, 12), int)
    truth[2:8, 2:8], truth[4:6, 4:6] = 1, 2
    prediction[2:8, 2:8] = 1
    scores = score_case(truth, prediction, labels, (1.0, 1.0))
    assert scores["whole"] == Scores(1.0, 0.0, 0.0, None)
    assert scores["core"].dice == 0


def test_images_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        score_case(np.zeros((3, 4)), np.zeros((4, 3)), Labels({"a": 1}), (1.0, 1.0))
    with pytest.raises(ValueError, match="spacing"):
        score_case(np.zeros((3, 4)), np.zeros((3, 4)), Labels({"a": 1}), (1.0, 1.0, 1.0))


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]), st.floats(0.02, 0.98))
def test_of_anything_random_the_metrics_are_those_of_all_pairs_of_surface_points(
    seed: int, dimensions: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 12 if dimensions == 2 else 8, dimensions))
    spacing = tuple(float(size) for size in rng.uniform(0.3, 4, dimensions))
    truth, prediction = _blob(rng, shape, share), _blob(rng, shape, share)
    tolerance = float(rng.uniform(0.2, 6))
    found, expected = score(truth, prediction, spacing, tolerance), _by_all_pairs(truth, prediction, spacing, tolerance)
    for name in ("dice", "hd95", "assd", "nsd"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-4), name


def _blob(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> Mask:
    """Return something random in which neighbours are alike; never empty."""
    noise = rng.random(shape)
    for axis in range(len(shape)):
        noise = noise + np.roll(noise, 1, axis)
    mask: Mask = noise >= np.quantile(noise, 1 - share)
    return mask


def _by_all_pairs(truth: Mask, prediction: Mask, spacing: Sequence[float], tolerance: float) -> Scores:
    """Return the metrics by their definitions, without scipy and MONAI."""
    first, second = _surface(truth, spacing), _surface(prediction, spacing)
    pairs = np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
    forth, back = pairs.min(1), pairs.min(0)
    both = [*forth, *back]
    overlap = sum(1 for one, other in zip(truth.flat, prediction.flat, strict=True) if one and other)
    return Scores(
        dice=2 * overlap / (np.count_nonzero(truth) + np.count_nonzero(prediction)),
        hd95=max(_percentile_95(forth), _percentile_95(back)),
        assd=math.fsum(both) / len(both),
        nsd=sum(distance <= tolerance + 1e-9 for distance in both) / len(both),
    )


def _percentile_95(values: np.ndarray) -> float:
    """Return the value that 95 % of the others are below, on the line between the two nearest ranks."""
    ordered = sorted(values)
    rank = 0.95 * (len(ordered) - 1)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (rank - below) * (ordered[above] - ordered[below]))


def _surface(mask: Mask, spacing: Sequence[float]) -> np.ndarray:
    """Return the places in mm of the voxels of an object that have a face in common with one outside of it."""
    inside = {tuple(index) for index in np.argwhere(mask)}
    neighbours = [
        tuple(step if axis == other else 0 for other in range(mask.ndim))
        for axis in range(mask.ndim)
        for step in (-1, 1)
    ]
    surface = [
        index for index in inside if any(tuple(np.add(index, neighbour)) not in inside for neighbour in neighbours)
    ]
    return np.array(surface, float) * np.array(spacing)
