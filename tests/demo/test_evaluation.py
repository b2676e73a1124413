import csv
import math

import numpy as np
import pytest

from fednnunet.demo.evaluation import CaseScore, SiteScore, dice, overall, rows, score_sites, write_results
from fednnunet.demo.phantom import LESION, ORGAN


def test_dice_is_one_for_equal_and_zero_for_disjoint_regions():
    truth = np.array([[0, 1, 1], [0, 2, 2]])
    assert dice(truth, truth, 1) == 1
    assert dice(truth, np.where(truth == 1, 2, 1), 1) == 0


@pytest.mark.parametrize("shift", [0, 1, 3, 10])
def test_dice_of_two_shifted_squares_is_the_share_of_their_overlap(shift):
    truth, prediction = np.zeros((30, 30), int), np.zeros((30, 30), int)
    truth[5:15, 5:15] = LESION
    prediction[5:15, 5 + shift : 15 + shift] = LESION
    assert dice(truth, prediction, LESION) == pytest.approx((10 - shift) / 10)


def test_dice_of_nested_regions_is_twice_the_small_one_by_the_sum():
    truth, prediction = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    truth[2:6, 2:6, 2:6] = ORGAN
    prediction[3:5, 3:5, 3:5] = ORGAN
    assert dice(truth, prediction, ORGAN) == pytest.approx(2 * 8 / (64 + 8))


def test_dice_is_symmetric_and_nan_where_nobody_has_the_label():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 3, size=(2, 20, 20))
    assert dice(first, second, 1) == dice(second, first, 1)
    assert math.isnan(dice(first, second, 3))
    assert dice(first, np.zeros_like(first), 1) == 0


SCORES = [
    CaseScore("A", "a0", "organ", 0.9, 0.8),
    CaseScore("A", "a0", "lesion", 0.7, 0.6),
    CaseScore("A", "a1", "organ", 1.0, 0.5),
    CaseScore("A", "a1", "lesion", float("nan"), 0.5),
    CaseScore("B", "b0", "organ", 0.5, 0.5),
]


def test_site_mean_is_over_labels_then_cases_and_leaves_out_nan():
    first, second = score_sites(SCORES)
    assert (first.site, second.site) == ("A", "B")
    assert first.federated == pytest.approx((0.8 + 1.0) / 2)
    assert first.own == pytest.approx((0.7 + 0.5) / 2)
    assert first.difference == pytest.approx(0.3)
    assert overall([first, second]).federated == pytest.approx((0.9 + 0.5) / 2)


def test_rows_end_with_the_mean_and_say_the_sign_of_the_difference():
    table = rows([SiteScore("A", 0.9, 0.6), SiteScore("B", 0.5, 0.6)], {"A": 20, "B": 10})
    assert table == [
        ("A", "20", "0.900", "0.600", "+0.300"),
        ("B", "10", "0.500", "0.600", "-0.100"),
        ("mean", "30", "0.700", "0.600", "+0.100"),
    ]


def test_results_files_hold_the_table_and_every_case(tmp_path):
    write_results(tmp_path, SCORES, rows(score_sites(SCORES), {"A": 2, "B": 1}))
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert "| A | 2 | 0.900 | 0.600 | +0.300 |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    with (tmp_path / "results.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(SCORES)
    assert written[1] == {"site": "A", "case": "a0", "label": "lesion", "federated": "0.7000", "own": "0.6000"}
