"""The threshold attack against closed forms and second implementations."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from fednnunet.membership.attack import FEWEST, Attack, Estimate, attack, paired_attack, roc_curve

RNG = np.random.default_rng(1)


def _auc(found: Attack) -> Estimate:
    assert found.auc is not None
    return found.auc


def _scores(trained: list[float], held_out: list[float]) -> tuple[list[int], list[float]]:
    return [1] * len(trained) + [0] * len(held_out), [-loss for loss in (*trained, *held_out)]


@pytest.mark.parametrize("decimals", [1, 8], ids=["ties", "no ties"])
@pytest.mark.parametrize("sizes", [(3, 5), (9, 30)])
def test_auc_and_curve_are_those_of_scikit_learn(sizes: tuple[int, int], decimals: int) -> None:
    trained, held_out = (
        RNG.normal(mean, 1, n).round(decimals).tolist() for mean, n in zip((0, 0.5), sizes, strict=True)
    )
    found = attack(trained, held_out)
    assert _auc(found).value == pytest.approx(roc_auc_score(*_scores(trained, held_out)))
    false, true, _ = sklearn_roc_curve(*_scores(trained, held_out), drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(trained, held_out), (false, true))
    assert found.recognized == round(true[false == 0].max() * len(trained))


def test_auc_is_the_share_of_pairs_in_the_right_order_where_a_tie_counts_half() -> None:
    found = attack([1.0, 2.0, 3.0], [2.0, 4.0])
    assert _auc(found).value == (1 + 1 + 0.5 + 1 + 0 + 1) / 6
    assert found.recognized == 1
    assert (found.trained, found.held_out) == (3, 2)


def test_interval_of_many_cases_is_hanley_and_mcneils() -> None:
    trained, held_out = RNG.exponential(1, 400), RNG.exponential(3, 400)  # AUC 3/4 of two exponentials
    auc = _auc(attack(trained.tolist(), held_out.tolist()))
    first, second, n = auc.value / (2 - auc.value), 2 * auc.value**2 / (1 + auc.value), 400
    error = np.sqrt(
        (auc.value * (1 - auc.value) + (n - 1) * (first - auc.value**2) + (n - 1) * (second - auc.value**2)) / n**2
    )
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low == pytest.approx(auc.value - 1.96 * error, abs=0.006)
    assert auc.high == pytest.approx(auc.value + 1.96 * error, abs=0.006)
    assert auc.low < 0.75 < auc.high


def test_an_audit_can_be_repeated() -> None:
    groups = RNG.normal(0, 1, 9).tolist(), RNG.normal(1, 1, 9).tolist()
    assert attack(*groups) == attack(*groups)


@pytest.mark.parametrize(("trained", "held_out"), [([], [1.0]), ([1.0], []), ([], [])])
def test_an_empty_group_gives_no_figure(trained: list[float], held_out: list[float]) -> None:
    found = attack(trained, held_out)
    assert found == Attack(len(trained), len(held_out))
    assert found.verdict == "too few cases"


def test_a_group_of_one_gives_a_figure_without_an_interval() -> None:
    assert attack([1.0], [0.5, 2.0, 3.0]).auc == Estimate(2 / 3, None, None)
    assert paired_attack([1.0], [2.0]).auc == Estimate(1.0, None, None)


def test_groups_that_do_not_overlap_have_the_exact_interval_of_as_many_disjoint_pairs() -> None:
    auc = _auc(attack([0.1, 0.2, 0.3, 0.4], np.linspace(1, 2, 12).tolist()))
    assert (auc.value, auc.high) == (1.0, 1.0)
    assert auc.low == pytest.approx(0.025 ** (1 / 4))
    auc = _auc(attack([3.0, 4.0], [1.0, 2.0]))
    assert (auc.value, auc.low) == (0.0, 0.0)
    assert auc.high == pytest.approx(1 - 0.025 ** (1 / 2))


def test_equal_losses_tell_nothing() -> None:
    found = attack([1.0] * 20, [1.0] * 20)
    assert found.auc == Estimate(0.5, 0.5, 0.5)
    assert found.recognized == 0
    assert found.verdict == "little"


def test_pairs_are_compared_case_by_case() -> None:
    found = paired_attack([1.0, 5.0, 9.0, 2.0], [1.5, 6.0, 8.0, 2.0])
    assert _auc(found).value == (2 + 0.5) / 4
    assert (found.trained, found.held_out, found.recognized) == (4, 4, None)
    whole = _auc(paired_attack(list(range(30)), list(range(1, 31))))  # the groups overlap, the pairs do not
    assert (whole.value, whole.low) == (1.0, pytest.approx(0.025 ** (1 / 30)))


def test_interval_of_many_pairs_is_that_of_a_proportion() -> None:
    wins = np.arange(200) < 160
    auc = _auc(paired_attack(np.where(wins, 0.0, 2.0).tolist(), [1.0] * 200))
    error = 1.96 * np.sqrt(0.8 * 0.2 / 200)
    assert (auc.low, auc.high) == (pytest.approx(0.8 - error, abs=0.01), pytest.approx(0.8 + error, abs=0.01))


@pytest.mark.parametrize(
    ("auc", "cases", "verdict"),
    [
        (Estimate(0.8, 0.6, 0.95), FEWEST, "tells"),
        (Estimate(0.8, 0.6, 0.95), FEWEST - 1, "too few cases"),
        (Estimate(0.65, 0.45, 0.8), 50, "unclear"),
        (Estimate(0.52, 0.45, 0.59), 500, "little"),
        (Estimate(0.53, 0.51, 0.55), 5000, "tells"),
        (None, 0, "too few cases"),
    ],
)
def test_a_verdict_needs_enough_cases_and_a_narrow_interval(auc: Estimate | None, cases: int, verdict: str) -> None:
    assert Attack(cases, 500, auc).verdict == verdict
    assert Attack(500, cases, auc).verdict == verdict
