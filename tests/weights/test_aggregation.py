from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fednnunet.weights.aggregation import AGGREGATIONS
from fednnunet.weights.aggregation.mean import weighted_mean

_models = hnp.arrays(np.float32, 3, elements=st.floats(-1e4, 1e4, width=32))
_weighted = st.lists(st.tuples(_models, st.integers(1, 5000)), min_size=1, max_size=9)


def _by_hand(name: str, models: list[np.ndarray], weights: list[int], element: int) -> Fraction:
    """Aggregate one element in exact arithmetic."""
    values = [Fraction(float(model[element])) for model in models]
    if name == "mean":
        return sum((value * weight for value, weight in zip(values, weights, strict=True)), Fraction()) / sum(weights)
    left_out = {"median": (len(values) - 1) // 2, "trimmed_mean": max(len(values) // 5, int(len(values) > 2))}[name]
    kept = sorted(values)[left_out : len(values) - left_out]
    return sum(kept, Fraction()) / len(kept)


@pytest.mark.parametrize("name", AGGREGATIONS)
@given(_weighted)
def test_aggregation_is_that_of_exact_arithmetic_rounded_to_float32(
    name: str, sites: list[tuple[np.ndarray, int]]
) -> None:
    models, weights = [model for model, _ in sites], [weight for _, weight in sites]
    result = AGGREGATIONS[name](models, weights)  # type: ignore[index]
    assert result.dtype == np.float32
    scale = max(float(np.abs(model).max()) for model in models)
    for element, got in enumerate(result):
        exact = float(_by_hand(name, models, weights, element))
        assert abs(exact - float(got)) <= np.spacing(np.float32(abs(exact))) / 2 + 1e-15 * scale


@given(_models, st.integers(1, 10**6))
def test_the_mean_of_a_single_model_is_that_model_bit_for_bit(model: np.ndarray, weight: int) -> None:
    assert weighted_mean([model], [weight]).tobytes() == model.tobytes()


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_one_wrong_site_of_three_cannot_spoil_the_result(name: str) -> None:
    right = [np.array([1.0, 2.0], np.float32), np.array([1.1, 2.1], np.float32)]
    for wrong in (1e30, -1e30):
        result = AGGREGATIONS[name]([*right, np.full(2, wrong, np.float32)], [1, 1, 10**6])  # type: ignore[index]
        assert (result >= right[0]).all()
        assert (result <= right[1]).all()
