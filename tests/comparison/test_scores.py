import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednnunet.comparison.scores import (
    best,
    by_case,
    mean_of_models,
    mean_over_sites,
    paired_differences,
    read_scores,
)
from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.metrics import Scores
from fednnunet.evaluation.paired import confidence

SCORES = {
    ("p1", "organ"): Scores(dice=0.8, hd95=2.0),
    ("p1", "lesion"): Scores(dice=0.4, hd95=6.0),
    ("p2", "organ"): Scores(dice=0.9, hd95=1.0),
    ("p2", "lesion"): Scores(),  # neither truth nor prediction has one
}


def test_scores_are_read_as_evaluate_writes_them(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("case,label,dice,hd95,assd,nsd\np1,organ,0.8,2.0,1.5,\np1,lesion,,,,\n")
    assert read_scores(path) == {("p1", "organ"): Scores(dice=0.8, hd95=2.0, assd=1.5), ("p1", "lesion"): Scores()}


@pytest.mark.parametrize("text", [None, "a,b\n1,2\n", "case,label,dice\np,organ,much\n"])
def test_what_is_no_table_of_scores_is_refused(tmp_path, text):
    path = tmp_path / "cases.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FednnUNetError, match="cannot be read"):
        read_scores(path)


def test_a_case_counts_once_however_many_labels_it_has():
    assert by_case(SCORES, "dice") == {"p1": pytest.approx(0.6), "p2": 0.9}
    assert by_case(SCORES, "hd95") == {"p1": 4.0, "p2": 1.0}
    assert by_case(SCORES, "dice", "lesion") == {"p1": 0.4}


def test_sites_count_the_same_and_none_may_be_missing():
    assert mean_over_sites([0.2, 0.4]) == pytest.approx(0.3)
    assert mean_over_sites([0.2, None]) is None
    assert mean_over_sites([]) is None


def test_models_are_averaged_where_they_have_a_value():
    other = {("p1", "organ"): Scores(dice=0.6), ("p2", "organ"): Scores(dice=0.5, hd95=3.0)}
    mean = mean_of_models([SCORES, other])
    assert mean["p1", "organ"] == Scores(dice=pytest.approx(0.7), hd95=2.0)
    assert mean["p2", "organ"] == Scores(dice=pytest.approx(0.7), hd95=2.0)
    assert mean["p1", "lesion"] == SCORES["p1", "lesion"]
    assert mean["p2", "lesion"] == Scores()


def test_differences_compare_labels_that_both_have():
    other = {
        ("p1", "organ"): Scores(dice=0.7),
        ("p1", "lesion"): Scores(),
        ("p2", "organ"): Scores(dice=0.8),
        ("p3", "organ"): Scores(dice=0.1),
    }
    # with each side's own mean over labels, p1 would be 0.6 - 0.7
    assert paired_differences(SCORES, other, "dice") == {"p1": pytest.approx(0.1), "p2": pytest.approx(0.1)}


def test_the_interval_is_students():
    # textbook: differences 1 2 3 4 5: mean 3, s = sqrt(2.5), t(0.975, 4) = 2.776445
    found = confidence([1, 2, 3, 4, 5])
    half = 2.7764451051977987 * math.sqrt(2.5) / math.sqrt(5)
    assert found is not None
    assert (found.mean, found.cases) == (3, 5)
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2))
def test_of_two_cases_the_interval_has_a_closed_form(values):
    # with one degree of freedom t is Cauchy's distribution, whose quantile is a tangent; s / sqrt(2) is half the range
    found = confidence(values)
    half = math.tan(0.475 * math.pi) * abs(values[0] - values[1]) / 2
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(half, abs=1e-12)
    assert found.mean - found.low == pytest.approx(half, abs=1e-12)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_of_three_cases_the_interval_has_a_closed_form(values):
    # two degrees of freedom: the quantile of p is (2 p - 1) / sqrt(2 p (1 - p))
    found = confidence(values)
    half = 0.95 / math.sqrt(2 * 0.975 * 0.025) * statistics.stdev(values) / math.sqrt(3)
    assert found is not None
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(half, abs=1e-12)


def test_one_case_has_no_interval_and_none_no_difference():
    found = confidence([0.25])
    assert found is not None
    assert (found.mean, found.low, found.high, found.cases) == (0.25, None, None, 1)
    assert confidence([]) is None


def test_the_best_is_what_readers_see_as_the_best():
    assert best({"ffe": 0.9004, "asym": 0.8996}, highest=True, digits=3) == {"ffe", "asym"}  # both 0.900
    assert best({"ffe": 0.9, "asym": 0.8, "lost": None}, highest=True, digits=3) == {"ffe"}
    assert best({"ffe": 3.14, "asym": 2.7}, highest=False, digits=2) == {"asym"}
    assert best({"ffe": None}, highest=True, digits=3) == set()
