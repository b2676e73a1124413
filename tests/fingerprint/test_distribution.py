import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednnunet.fingerprint.distribution import DIGIT_BITS, Distribution
from fednnunet.fingerprint.keys import key_bits, to_keys


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.sampled_from([0, 4, 16, 28]))
def test_digits_are_counted_as_one_would_by_hand(numbers: list[int], bits: int) -> None:
    distribution = Distribution.of(np.array(numbers, np.uint32))
    prefixes = sorted({number >> (32 - bits) for number in numbers} | {0, 2**bits - 1})
    expected = [
        [sum(number >> (28 - bits) == (prefix << DIGIT_BITS) + digit for number in numbers) for digit in range(16)]
        for prefix in prefixes
    ]
    np.testing.assert_array_equal(distribution.count_digits(bits, prefixes), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_following_the_largest_keys_does_not_overflow(dtype: str) -> None:
    distribution = Distribution.of(np.array([np.finfo(dtype).max] * 3, dtype))
    bits = key_bits(dtype) - DIGIT_BITS
    prefix = int(to_keys(np.array([np.finfo(dtype).max], dtype))[0]) >> DIGIT_BITS
    assert distribution.count_digits(bits, [prefix]).sum() == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=20), st.integers(0, 20))
def test_the_union_has_all_numbers_as_often_as_its_parts(numbers: list[tuple[int, int]], cut: int) -> None:
    def of(part: list[tuple[int, int]]) -> Distribution:
        values = np.array([value for value, _ in part], np.uint32)
        return Distribution.of(values, np.array([count for _, count in part], np.int64))

    whole, union = of(numbers), Distribution.union([of(numbers[:cut]), of(numbers[cut:])])
    expected = np.repeat([value for value, _ in numbers], [count for _, count in numbers]).astype(np.uint32)
    for distribution in (whole, union):
        np.testing.assert_array_equal(np.repeat(distribution.values, distribution.counts), np.sort(expected))
        assert distribution.total == len(expected)
        assert len(distribution.keys) == len(set(expected.tolist()))
