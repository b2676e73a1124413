import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednnunet.fingerprint.quantiles import interpolate, ranks


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from([0.5, 10.0, 50.0, 99.5, 100.0]))
def test_percentiles_are_those_of_numpy_to_the_last_bit(dtype: str, number: int, seed: int, percentile: float) -> None:
    numbers = np.random.default_rng(seed).normal(3, 1000, number).astype(dtype)
    # nnU-Net asks for several percentiles at once: NumPy computes differently with a single Python number
    expected = np.percentile(numbers, np.array([percentile, 0.0]))[0]
    ordered = np.sort(numbers)
    by_rank = {rank: ordered[rank] for rank in ranks(number, percentile)}
    assert interpolate(number, percentile, by_rank, dtype) == expected
