"""Aggregates against numpy, on the pooled cases."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednnunet.evaluation.metrics import Scores
from fednnunet.evaluation.summaries import Summary, pooled, summarize, summarize_cases, summarize_overall, write_cases

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
    assert summarize([0.1, 0.2, None, 0.3], min_cases=3).cases == 3
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
    assert summarize_overall(CASES)["dice"].mean == pytest.approx((0.7 + 0.7) / 2)
    assert summarize_overall(CASES)["dice"].cases == 2  # the third one has no value at all
    suppressed = summarize_cases(CASES, ("organ", "lesion"), min_cases=2)
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
    assert summarize_overall(cases)["dice"].mean == 0.5
