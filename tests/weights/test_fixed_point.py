"""Weighted means of integers of a fixed range."""

import itertools

import numpy as np
import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.weights.encoding import rounding
from fednnunet.weights.fixed_point import (
    BLOCK,
    FixedPoint,
    LargestChanges,
    blocks,
    exponents_of_local,
    exponents_of_weights,
)

SIZE = 5 * BLOCK + 17


def _mean(fixed: FixedPoint, of_sites: list[np.ndarray], weights: list[int], start: int = 0) -> np.ndarray:
    digits = [
        fixed.encode(start, values, weight, rounding(1, site))[0]
        for site, (values, weight) in enumerate(zip(of_sites, weights, strict=True))
    ]
    total = np.sum(digits, axis=0, dtype=fixed.dtype)
    return fixed.mean(start, total.view(total.dtype.str.replace("u", "i")), sum(weights))


@pytest.mark.parametrize(("bits", "error"), [(32, 2e-7), (16, 2e-2), (64, 2e-8)])
def test_the_mean_is_that_of_float64_as_far_as_the_bits_reach(bits: int, error: float) -> None:
    rng = np.random.default_rng(0)
    of_sites = [rng.normal(size=SIZE).astype(np.float32) for _ in range(3)]
    weights = [16, 8, 4]
    exponents = exponents_of_local(SIZE) if bits == 64 else exponents_of_weights(of_sites[0])
    mean = _mean(FixedPoint(bits, exponents, 28), of_sites, weights)
    expected = np.average(np.stack(of_sites).astype(np.float64), axis=0, weights=weights)
    assert np.abs(mean - expected).max() < error * 6


def test_a_sum_never_leaves_its_range_however_large_updates_are() -> None:
    """A site that clips to the whole range, and not to its share, makes the sum of three change its sign."""
    for bits in (16, 32, 64):
        for weights in ([1, 1, 1], [5, 3, 1], [1] * 32, [32767 * 2, 1, 1]):
            fixed = FixedPoint(bits, np.zeros(1, np.int8), sum(weights))
            for sign in (1, -1):
                of_sites = [np.full(7, sign * 1e30, np.float32) for _ in weights]
                mean = _mean(fixed, of_sites, weights)
                assert (mean * sign > 0.9).all()
                assert (mean * sign <= 1).all()


def test_parts_that_begin_within_a_block_use_its_range() -> None:
    exponents = np.arange(6, dtype=np.int8)
    fixed = FixedPoint(32, exponents, 1)
    values = np.linspace(-1, 1, SIZE, dtype=np.float32)
    whole = fixed.encode(0, values, 1, None)[0]
    for start, stop in ((0, 300), (300, 700), (700, SIZE)):
        np.testing.assert_array_equal(fixed.encode(start, values[start:stop], 1, None)[0], whole[start:stop])


def test_what_is_rounded_or_clipped_is_made_good_for_by_error_feedback() -> None:
    rng = np.random.default_rng(1)
    fixed = FixedPoint(16, np.full(1, -10, np.int8), 4)
    wanted = (rng.normal(size=BLOCK) * 2**-9).astype(np.float32)  # twice the range
    error, received = np.zeros(BLOCK, np.float32), np.zeros(BLOCK)
    for number in range(1, 400):
        _, sent = fixed.encode(0, (wanted if number < 50 else 0 * wanted) + error, 1, rounding(number))
        error = (wanted if number < 50 else 0 * wanted) + error - sent
        received += sent
    np.testing.assert_allclose(received, 49 * wanted, atol=1e-5)


def test_rounding_is_right_on_average() -> None:
    fixed = FixedPoint(16, np.zeros(blocks(100_000), np.int8), 10)
    value = np.float32(0.3 * 2**-15 * 10)  # a third of a step of a site with a tenth of the weight
    _, sent = fixed.encode(0, np.full(100_000, value, np.float32), 1, rounding(2))
    assert sent.mean() == pytest.approx(value, rel=0.02)


def _changes(change: np.ndarray, *stops: int) -> LargestChanges:
    """Changes that have come in parts which end there."""
    changes = LargestChanges(len(change))
    for start, stop in itertools.pairwise((0, *stops, len(change))):
        changes.add(start, change[start:stop])
    return changes


@pytest.mark.parametrize("stops", [(256, 512), (1, 255, 257), (700,), (300, 301, 302)])
def test_the_largest_change_of_a_block_does_not_depend_on_the_parts_in_which_it_comes(stops: tuple[int, ...]) -> None:
    change = np.random.default_rng(3).normal(size=SIZE).astype(np.float32) * np.float32(2.0) ** (np.arange(SIZE) // 300)
    weights = np.full(SIZE, 1e-3, np.float32)
    expected = [np.frexp(np.abs(change[at : at + BLOCK]).max())[1] + 4 for at in range(0, SIZE, BLOCK)]
    assert _changes(change, *stops).exponents(weights).tolist() == expected


def test_ranges_let_blocks_of_zeros_change_and_grow_when_they_are_too_small() -> None:
    weights = np.concatenate([np.zeros(BLOCK), np.full(BLOCK, 1.5), np.full(BLOCK, 1e-3)]).astype(np.float32)
    assert exponents_of_weights(weights).tolist() == [1, 5, 1]
    change = np.concatenate([np.zeros(BLOCK), np.full(BLOCK, 0.3), np.full(BLOCK, 1e-3)]).astype(np.float32)
    assert _changes(change).exponents(weights).tolist() == [-13, 3, -5]
    nothing = np.zeros(BLOCK, np.float32)
    assert exponents_of_weights(nothing).tolist() == [8]
    assert _changes(nothing).exponents(nothing).tolist() == [8]
    assert exponents_of_weights(np.zeros(0, np.float32)).shape == (0,)


def test_changes_to_zeros_have_room_for_any_momentum_and_are_not_coarse() -> None:
    nothing = np.zeros(BLOCK, np.float32)
    fixed = FixedPoint(32, exponents_of_weights(nothing), 3)
    momentum = np.geomspace(1e-4, 120, BLOCK).astype(np.float32)
    _, sent = fixed.encode(0, momentum, 1, rounding(0))
    np.testing.assert_allclose(sent, momentum, rtol=1e-6, atol=1e-6)


def test_a_small_site_that_alone_changes_something_is_not_cut_off() -> None:
    """With a range of 4 times the last mean, a site of a tenth of the cases had no more than half of its say."""
    rng = np.random.default_rng(5)
    of_site = rng.normal(size=BLOCK).astype(np.float32)
    weights, changes = np.ones(BLOCK, np.float32), _changes(of_site / 10)
    fixed = FixedPoint(16, changes.exponents(weights), 10)
    _, sent = fixed.encode(0, of_site, 1, rounding(0))
    np.testing.assert_allclose(sent, of_site, rtol=0, atol=0.01)
    mean = _mean(fixed, [of_site, np.zeros(BLOCK, np.float32)], [1, 9])
    np.testing.assert_allclose(mean, of_site / 10, rtol=0, atol=0.001)


def test_numbers_beyond_the_range_are_counted() -> None:
    fixed = FixedPoint(32, np.zeros(1, np.int8), 5)
    values, _ = fixed.encode(0, np.array([0.5, -0.999, 1.001, -7, 0], np.float32), 2, None)
    assert fixed.cut_off(values, 2) == 2


def test_ranges_of_another_model_and_impossible_weights_are_refused() -> None:
    with pytest.raises(FednnUNetError, match="ranges"):
        FixedPoint.of_bytes(16, b"\0" * 2, 2 * BLOCK + 1, 1)
    with pytest.raises(FednnUNetError, match="ranges"):
        FixedPoint.of_bytes(16, np.int8(-128).tobytes(), BLOCK, 1)
    fixed = FixedPoint.of_bytes(16, b"\0", BLOCK, 5)
    for weight in (0, 6):
        with pytest.raises(FednnUNetError, match="add up to"):
            fixed.mean(0, np.zeros(3, np.int16), weight)
