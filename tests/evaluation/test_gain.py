"""What a federation gave a site."""

import math

import pytest

from fednnunet.evaluation.gain import Dice, ModelName, advise, gain_of_label, gain_overall


def _dice(**values: float) -> Dice:
    return {case: {"x": value} for case, value in values.items()}


def _models(**of_models: list[float]) -> dict[ModelName, Dice]:
    return {name: {str(n): {"x": v} for n, v in enumerate(values)} for name, values in of_models.items()}  # type: ignore[misc]


def _reason(**of_models: list[float]) -> tuple[str, bool, str]:
    advice = advise(gain_overall(_models(**of_models), ["x"]))
    assert advice is not None
    return advice.model, advice.is_certain, advice.reason


def test_differences_are_paired_by_case_with_students_interval() -> None:
    models: dict[ModelName, Dice] = {
        "federated": _dice(a=0.1, b=0.4, c=0.7),
        "personal": _dice(c=0.9, b=0.5, a=0.4),
    }
    gain = gain_of_label(models, "x")
    assert gain.dice == {"federated": pytest.approx(0.4), "personal": pytest.approx(0.6)}
    (found,) = gain.differences.values()
    # differences 0.3, 0.1, 0.2: standard deviation 0.1, and t is 4.3027 with two degrees of freedom
    assert found.mean == pytest.approx(0.2)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert (gain.cases, gain.fewest) == (3, 3)


def test_cases_that_only_some_models_can_be_scored_on_do_not_count_but_are_told_of() -> None:
    models: dict[ModelName, Dice] = {
        "federated": {"a": {"x": 0.5}, "b": {"x": 0.0}, "c": {}, "d": {"x": 1.0}},
        "alone": {"a": {"x": 0.25}, "b": {}, "c": {}, "e": {"x": 1.0}},
    }
    gain = gain_of_label(models, "x")
    assert (gain.dice, gain.cases, gain.fewest) == ({"federated": 0.5, "alone": 0.25}, 1, 1)
    assert gain_of_label(models, "y").cases == 0


def test_over_all_labels_a_case_counts_with_those_that_all_models_have() -> None:
    models: dict[ModelName, Dice] = {
        "federated": {"a": {"x": 0.5, "y": 0.75}, "b": {"x": 0.25, "y": 1.0}, "c": {"x": 0.75}, "d": {}},
        "personal": {"a": {"x": 1.0, "y": 0.5}, "b": {"x": 0.5}, "c": {"x": 0.5, "y": 1.0}, "d": {"y": 1.0}},
    }
    gain = gain_overall(models, ["x", "y"])
    assert gain.dice["federated"] == pytest.approx((0.625 + 0.25 + 0.75) / 3)
    assert gain.dice["personal"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert (gain.cases, gain.fewest) == (3, 1)  # one case with both, two with x, one with neither


def test_the_better_model_is_advised_only_if_it_is_so_by_more_than_chance() -> None:
    model, is_certain, reason = _reason(federated=[0.5, 0.6, 0.7], personal=[0.8, 0.9, 0.98])
    assert (model, is_certain) == ("personal", True)
    assert "it is +0.293 (95 % interval" in reason
    assert "mean Dice over 3 validation cases: the federated model 0.600, the personal model 0.893" in reason
    model, is_certain, reason = _reason(federated=[0.5, 0.6, 0.7], personal=[0.9, 0.3, 0.8])
    assert (model, is_certain) == ("federated", False)
    assert "which may be chance" in reason
    assert _reason(federated=[0.8, 0.9, 0.98], personal=[0.5, 0.6, 0.7])[:2] == ("federated", True)


def test_a_site_that_would_be_better_off_alone_is_told_so_plainly() -> None:
    model, is_certain, reason = _reason(federated=[0.5, 0.6, 0.7], personal=[0.6, 0.6, 0.7], alone=[0.8, 0.9, 0.98])
    assert (model, is_certain) == ("alone", True)
    assert reason.startswith("This site would be better off alone: the personal model is worse by -0.260")
    model, is_certain, reason = _reason(federated=[0.5, 0.6, 0.7], alone=[0.9, 0.3, 0.98])
    assert (model, is_certain) == ("federated", False)
    assert "not distinguishable from chance with 3 validation cases" in reason
    assert _reason(federated=[0.8, 0.9, 0.98], alone=[0.5, 0.6, 0.7])[:2] == ("federated", True)


def test_where_the_federations_model_fails_the_personal_one_may_make_good_for_it() -> None:
    model, _, reason = _reason(
        federated=[0.1, 0.2, 0.1, 0.2], personal=[0.9, 0.8, 0.9, 0.3], alone=[0.85, 0.8, 0.85, 0.9]
    )
    assert model == "personal"
    assert "not distinguishable from chance" in reason


def test_of_no_cases_or_one_nothing_is_certain() -> None:
    assert advise(gain_overall({"federated": {}, "personal": {}}, ["x"])) is None
    model, is_certain, reason = _reason(federated=[0.5], personal=[0.9])
    assert (model, is_certain) == ("federated", False)
    assert "over 1 validation case:" in reason
