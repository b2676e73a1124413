import csv
import math

import pytest
import SimpleITK as sitk

from fednnunet.demo.evaluation import (
    CaseScore,
    SiteScore,
    overall,
    read,
    rows,
    score_cases,
    score_sites,
    write_results,
)
from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from fednnunet.demo.phantom import LESION, ORGAN


def test_dice_of_a_hospital_is_by_case_and_label_and_nan_where_nobody_has_the_label(tmp_path):
    (dataset,) = write_hospitals(tmp_path, hospitals=HOSPITALS[:1], training_cases=1, test_cases=2, resolution=0.4)
    for folder in ("federated", "own"):
        (tmp_path / folder).mkdir()
    for case in dataset.test_cases:
        truth = sitk.ReadImage(str(dataset.labels(case)))
        organ_only = sitk.Cast(truth == ORGAN, sitk.sitkUInt8) * ORGAN
        sitk.WriteImage(truth, str(tmp_path / "federated" / dataset.labels(case).name))
        sitk.WriteImage(organ_only, str(tmp_path / "own" / dataset.labels(case).name))
    scores = score_cases(dataset, tmp_path / "federated", tmp_path / "own")
    assert [(score.case, score.label) for score in scores] == [
        (case, label) for case in dataset.test_cases for label in ("organ", "lesion")
    ]
    for score in scores:
        has_label = (read(dataset.labels(score.case)) == {"organ": ORGAN, "lesion": LESION}[score.label]).any()
        if not has_label:
            assert math.isnan(score.federated)
            continue
        assert (score.federated, score.own) == (1, 1 if score.label == "organ" else 0)


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
