"""Maps numbers to unsigned integers of the same order, so that order statistics can be found digit by digit.

An IEEE 754 number, read as an integer, is in order among the positive numbers and in reverse order among the negative
ones; flipping the sign bit of the former and all bits of the latter puts all of them in order.
"""

from typing import Any

import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.uint32),
    "float64": np.dtype(np.uint64),
    "uint32": np.dtype(np.uint32),
}
"""Supported types: dtype of the numbers -> dtype of their keys."""


def key_bits(dtype: str) -> int:
    """Return the number of bits of the keys of a dtype."""
    return DTYPES[dtype].itemsize * 8


def to_keys(values: np.ndarray) -> np.ndarray:
    """Return the keys of finite numbers, shape as given; ``a < b`` holds for keys exactly where it does for numbers.

    -0.0 has the key of 0.0. `values` has one of the dtypes in `DTYPES`.
    """
    if values.dtype.kind == "u":
        return values
    keys = DTYPES[values.dtype.name]
    sign = keys.type(1) << keys.type(keys.itemsize * 8 - 1)
    bits: np.ndarray = (values + 0.0).view(keys)  # adding 0.0 turns -0.0 into 0.0
    return np.where(bits & sign, ~bits, bits | sign)


def from_keys(keys: np.ndarray, dtype: str) -> np.ndarray:
    """Return the numbers whose keys these are: the inverse of `to_keys`."""
    if np.dtype(dtype).kind == "u":
        return keys
    sign = DTYPES[dtype].type(1) << DTYPES[dtype].type(key_bits(dtype) - 1)
    bits: np.ndarray = np.where(keys & sign, keys ^ sign, ~keys)
    return bits.view(np.dtype(dtype))
