"""Aggregates against numpy, on the pooled cases."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednnunet.evaluation.metrics import Scores
from fednnunet.evaluation.summaries import (
    Summary,
    pooled,
    rounded,
    summarize,
    summarize_cases,
    summarize_overall,
    write_cases,
)

_values = st.lists(st.floats(0, 500), max_size=12)


@given(_values)
@settings(database=None)
def test_a_summary_is_numpys(values: list[float]) -> None:
    found = summarize([*values, None])
    if not values:
        assert found == Summary()
        return
    assert found.cases == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.median == pytest.approx(np.median(values))
    if len(values) == 1:
        assert found.std is None
    else:
        assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_too_few_cases_are_not_told_of_not_even_their_number() -> None:
    assert summarize([0.1, 0.2, None, 0.3], min_cases=4) == Summary()
    assert summarize([0.1, 0.2, None, 0.3, None, None], min_cases=3).cases == 3
    assert summarize([], min_cases=0) == Summary()


@given(st.lists(_values, max_size=5))
@settings(database=None)
def test_sites_together_are_the_pooled_cases(sites: list[list[float]]) -> None:
    found = pooled(summarize(values) for values in sites)
    expected = summarize(value for values in sites for value in values)
    assert found.cases == expected.cases
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == (None if expected.std is None else pytest.approx(expected.std, abs=1e-6))
    assert found.median is None


CASES = {
    "one": {"organ": Scores(0.9, 1.0, 0.5, 1.0), "lesion": Scores(0.5, 3.0, 1.5, 0.5)},
    "two": {"organ": Scores(0.7, 2.0, 1.0, 0.9), "lesion": Scores()},
    "three": {"organ": Scores(), "lesion": Scores()},
}


def test_overall_is_over_the_labels_of_a_case_and_then_over_cases() -> None:
    summaries = summarize_cases(CASES, ("organ", "lesion"))
    assert summaries["organ"]["dice"].mean == pytest.approx(0.8)
    assert summaries["lesion"]["hd95"] == Summary(3.0, None, 3.0, 1)
    assert summarize_overall(CASES, ("organ", "lesion"))["dice"].mean == pytest.approx((0.7 + 0.7) / 2)
    assert summarize_overall(CASES, ("organ", "lesion"))["dice"].cases == 2  # the third one has no value at all
    suppressed = summarize_cases({**CASES, "four": CASES["three"]}, ("organ", "lesion"), min_cases=2)
    assert suppressed["lesion"]["dice"] == Summary()
    assert suppressed["organ"]["dice"].cases == 2


def test_the_table_has_a_row_for_each_case_and_label_and_a_cell_for_each_value(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.csv", CASES)
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "label", "dice", "hd95", "assd", "nsd"]
    assert len(rows) == 6
    assert rows[0] == {"case": "one", "label": "organ", "dice": "0.9", "hd95": "1.0", "assd": "0.5", "nsd": "1.0"}
    assert [rows[5][metric] for metric in ("dice", "hd95", "assd", "nsd")] == [""] * 4


def test_a_label_that_is_called_overall_is_a_label() -> None:
    cases = {case: {"overall": Scores(dice=1.0), "b": Scores(dice=0.0)} for case in ("x", "y")}
    assert summarize_cases(cases, ["overall", "b"])["overall"]["dice"].mean == 1
    assert summarize_overall(cases, ["overall", "b"])["dice"].mean == 0.5


LABELS = ("organ", "lesion", "cyst")


def _site(lacking: dict[str, set[int]], cases: int = 12) -> dict[str, dict[str, Scores]]:
    """Return cases with random metrics; `lacking` names those that have no value of a label."""
    random = np.random.default_rng(1)
    return {
        str(case): {
            label: Scores() if case in lacking.get(label, ()) else Scores(*random.uniform(0.1, 0.9, 4))
            for label in LABELS
        }
        for case in range(cases)
    }


def _is_given_away(cases: dict[str, dict[str, Scores]], min_cases: int) -> bool:
    """Return whether the sums that are told determine the Dice of a case, over any of its labels together.

    The unknowns are the values of each case; each figure that is told is one linear equation in them.
    """
    unknowns = [(case, label) for case, scores in cases.items() for label in LABELS if scores[label].dice is not None]
    equations = []
    of_labels = summarize_cases(cases, LABELS, min_cases)
    told = [label for label in LABELS if of_labels[label]["dice"].mean is not None]
    for label in told:
        equations.append([float(of == label) for _, of in unknowns])
    overall = summarize_overall(cases, LABELS, min_cases)["dice"]
    # which labels went into it is what the figure itself says: it is tried with those told, and with all of them
    for within in (told, LABELS):
        there = {case: [label for label in within if (case, label) in unknowns] for case in cases}
        values = [np.mean([cases[case][label].dice or 0 for label in has]) for case, has in there.items() if has]
        if overall.mean is not None and overall.mean == pytest.approx(np.mean(values), abs=1e-12):
            equations.append([(of in there[case]) / len(there[case]) if there[case] else 0.0 for case, of in unknowns])
            break
    if not equations:
        return False
    system = np.array(equations)
    rank = np.linalg.matrix_rank(system)
    for case in cases:
        # a combination of equations that leaves nothing but this case: one in which all others cancel out
        others = system[:, [of != case for of, _ in unknowns]]
        if np.linalg.matrix_rank(others) < rank:
            return True
    return False


@pytest.mark.parametrize(
    "lacking", [{"cyst": {3}}, {"lesion": {0, 1, 2, 3}}, {"lesion": {5}, "cyst": {5}}, {"cyst": {1}, "lesion": {2}}]
)
def test_nothing_that_is_told_can_be_subtracted_to_a_patients_dice(lacking: dict[str, set[int]]) -> None:
    cases = _site(lacking)
    assert not _is_given_away(cases, min_cases=5)
    assert summarize_cases(cases, LABELS, 5)["organ"]["dice"].cases == 12  # what all have is told


def test_the_differencing_attack_works_where_single_cases_may_be_told_of() -> None:
    assert _is_given_away(_site({"cyst": {3}}), min_cases=1)


def test_a_label_that_enough_cases_lack_is_told_and_counts() -> None:
    cases = _site({"cyst": {0, 1, 2, 3, 4}})
    assert summarize_cases(cases, LABELS, 5)["cyst"]["dice"].cases == 7
    assert summarize_overall(cases, LABELS, 5)["dice"].cases == 12
    # each of two labels is lacking in enough cases, but both are in one case only
    both = _site({"cyst": {0, 1, 2, 3, 4}, "lesion": {4, 5, 6, 7, 8}})
    assert summarize_cases(both, LABELS, 5)["lesion"]["dice"].cases == 7
    assert summarize_overall(both, LABELS, 5)["dice"] == Summary()


def test_a_figure_has_no_more_digits_than_a_table_unless_single_cases_may_be_told_of() -> None:
    summary = Summary(0.123456, 0.234567, 0.345678, 7)
    assert rounded(summary, "dice", 5) == Summary(0.1235, 0.2346, 0.3457, 7)
    assert rounded(summary, "hd95", 5) == Summary(0.12, 0.23, 0.35, 7)
    assert rounded(summary, "dice", 1) == summary
