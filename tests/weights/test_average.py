from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fednnunet.errors import FednnUNetError
from fednnunet.weights.average import weighted_mean

_models = hnp.arrays(np.float32, 3, elements=st.floats(-1e4, 1e4, width=32))


@given(st.lists(st.tuples(_models, st.integers(1, 5000)), min_size=1, max_size=6))
def test_mean_is_that_of_exact_arithmetic_rounded_to_float32(updates: list[tuple[np.ndarray, int]]) -> None:
    total = sum(weight for _, weight in updates)
    for element, got in enumerate(weighted_mean(updates)):
        exact = sum(Fraction(float(model[element])) * weight for model, weight in updates) / total
        scale = max(abs(float(model[element])) for model, _ in updates)
        assert abs(float(exact) - float(got)) <= np.spacing(np.float32(abs(float(exact)))) / 2 + 1e-15 * scale


@given(_models, st.integers(1, 10**6))
def test_a_single_update_comes_back_bit_for_bit(model: np.ndarray, weight: int) -> None:
    assert weighted_mean([(model, weight)]).tobytes() == (model + np.float32(0)).tobytes()


def test_updates_of_different_lengths_and_no_updates_are_refused() -> None:
    with pytest.raises(FednnUNetError, match="different lengths"):
        weighted_mean([(np.zeros(3, np.float32), 1), (np.zeros(4, np.float32), 1)])
    with pytest.raises(FednnUNetError, match="no updates"):
        weighted_mean([])
