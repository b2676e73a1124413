"""How large updates are, and who is out of line."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednnunet.weights.norms import outliers, squared_norm

LARGEST = float(np.finfo(np.float32).max)
_norms = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1e80), max_size=8)


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 50_000])
def test_a_norm_is_that_of_the_difference_in_float64(size: int) -> None:
    rng = np.random.default_rng(size)
    known = rng.normal(size=size).astype(np.float32)
    update = known + rng.normal(size=size).astype(np.float32) / 100
    alone = math.fsum(float(value) ** 2 for value in update)
    difference = math.fsum((float(new) - float(old)) ** 2 for new, old in zip(update, known, strict=True))
    assert squared_norm(update) == pytest.approx(alone, rel=1e-12)
    assert squared_norm(update, known) == pytest.approx(difference, rel=1e-12)


@pytest.mark.parametrize("value", [1e30, LARGEST, 1e-30])
def test_numbers_whose_squares_do_not_fit_in_float32_have_a_norm(value: float) -> None:
    update = np.full(10_000, value, np.float32)
    assert squared_norm(update) == pytest.approx(10_000 * float(np.float32(value)) ** 2)
    assert squared_norm(update, -update) == pytest.approx(40_000 * float(np.float32(value)) ** 2)


def test_what_is_given_is_not_changed() -> None:
    update, known = np.full(5, 2, np.float32), np.full(5, 1, np.float32)
    assert squared_norm(update, known) == 5
    assert (update.tolist(), known.tolist()) == ([2] * 5, [1] * 5)


@pytest.mark.parametrize(
    ("norms", "found"),
    [
        ([], {}),
        ([1e9], {}),
        ([1, 1e9], {}),
        ([1, 2, 60], {2: 40}),
        ([1, 2, 3, 24], {3: 12}),
        ([5, 1, 1], {}),  # not more than five times
        ([0, 0, 0], {}),
        ([0, 1, 1], {}),
        ([0, 0, 1e-9], {2: math.inf}),
        ([0, 1, 10], {2: 20}),
        ([1, 1, 1, 30, 60], {3: 30, 4: 60}),  # a minority does not hide behind each other
    ],
)
def test_out_of_line_is_who_is_far_above_the_median_of_the_others(norms: list[float], found: dict[int, float]) -> None:
    sites = [f"site {number}" for number in range(len(norms))]
    assert outliers(dict(zip(sites, norms, strict=True))) == {sites[number]: by for number, by in found.items()}


def test_the_factor_decides() -> None:
    norms = {"A": 1.0, "B": 1.0, "C": 3.0}
    assert outliers(norms, 3) == {}
    assert outliers(norms, 2.9) == {"C": 3}


@given(_norms, st.integers(-20, 20))
def test_the_scale_of_all_updates_does_not_matter(norms: dict[str, float], power: int) -> None:
    norms = {site: float(np.float32(norm)) if norm < 1e30 else norm for site, norm in norms.items()}
    scaled = {site: norm * 2.0**power for site, norm in norms.items()}
    assert outliers(scaled) == outliers(norms)


@given(_norms)
def test_fewer_than_half_of_the_sites_are_out_of_line(norms: dict[str, float]) -> None:
    assert 2 * len(outliers(norms)) <= len(norms)
