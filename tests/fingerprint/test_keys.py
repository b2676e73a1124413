import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fednnunet.fingerprint.keys import DTYPES, from_keys, key_bits, to_keys


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(st.data())
def test_keys_are_ordered_as_the_numbers_are(dtype: str, data: st.DataObject) -> None:
    numbers = data.draw(hnp.arrays(dtype, 30, elements=st.floats(width=key_bits(dtype), allow_nan=False)))
    keys = to_keys(numbers)
    assert keys.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(keys[:, None] < keys, numbers[:, None] < numbers)
    np.testing.assert_array_equal(keys[:, None] == keys, numbers[:, None] == numbers)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_keys_give_the_numbers_back(dtype: str) -> None:
    if dtype == "uint32":
        numbers = np.array([0, 1, 2**32 - 1], dtype)
    else:
        limits = np.finfo(dtype)
        numbers = np.array([limits.min, -1, -limits.smallest_subnormal, 0, limits.tiny, 0.1, limits.max], dtype)
    back = from_keys(to_keys(numbers), dtype)
    assert back.dtype == numbers.dtype
    np.testing.assert_array_equal(back, numbers)


def test_minus_zero_is_zero() -> None:
    assert to_keys(np.array([-0.0], np.float32)) == to_keys(np.array([0.0], np.float32))
