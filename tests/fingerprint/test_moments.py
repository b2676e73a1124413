import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.distribution import Distribution
from fednnunet.fingerprint.moments import VECTOR_LENGTH, Moments

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _moments(numbers: list[float]) -> Moments:
    return Moments.of(Distribution.of(np.array(numbers, np.float32)))


@given(st.lists(FLOAT32, min_size=1, max_size=30))
def test_moments_are_those_of_rational_arithmetic(numbers: list[float]) -> None:
    exact = [Fraction(number) for number in numbers]
    moments = _moments(numbers)
    assert moments.number == len(numbers)
    assert moments.total == sum(exact) * 2**149
    assert moments.squares == sum(number**2 for number in exact) * 2**298
    mean = sum(exact) / len(exact)
    assert moments.mean == float(mean)
    variance = sum((number - mean) ** 2 for number in exact) / len(exact)
    # the square of a float64 next to the root of the variance brackets it
    below, above = math.nextafter(moments.std, 0), math.nextafter(moments.std, math.inf)
    assert Fraction(below) ** 2 <= variance <= Fraction(above) ** 2


@given(st.lists(st.lists(FLOAT32, max_size=8), min_size=1, max_size=5))
def test_vectors_of_parts_add_up_to_that_of_the_whole(parts: list[list[float]]) -> None:
    vectors = [_moments(part).to_vector() for part in parts]
    whole = _moments([number for part in parts for number in part])
    assert vectors[0].shape == (VECTOR_LENGTH,)
    assert vectors[0].dtype == np.int64
    assert Moments.from_vector(np.sum(vectors, axis=0)) == whole


def test_the_largest_sums_fit() -> None:
    largest = Distribution.of(np.array([np.finfo(np.float32).max], np.float32), np.array([2**38]))
    smallest = Distribution.of(np.array([np.finfo(np.float32).min], np.float32), np.array([2**38]))
    for distribution in (largest, smallest):
        moments = Moments.of(distribution)
        assert Moments.from_vector(moments.to_vector()) == moments
        assert moments.mean == float(distribution.values[0])
        assert moments.std == 0


def test_contradicting_sums_are_refused() -> None:
    with pytest.raises(FednnUNetError, match="contradict"):
        _ = Moments(number=2, total=10, squares=1).std
