"""Means of losses and Dice from sums of integers."""

import numpy as np
import pytest

from fednnunet.protocol.messages import RoundReport, ValidationReport
from fednnunet.secure_aggregation.figures import Report, from_sums, to_terms, widths_of
from fednnunet.secure_aggregation.integers import added, from_bytes, to_bytes

LABELS = ["organ", "lesion", "vessel"]


def _sums(reports: list[Report | None], *, is_round: bool) -> list[int]:
    widths = widths_of(LABELS, is_round=is_round)
    terms = [to_bytes(to_terms(report, LABELS, is_round=is_round), widths) for report in reports]
    return from_bytes(added(terms, widths), widths)


def test_sums_give_the_means_over_those_sites_that_have_a_figure() -> None:
    rng = np.random.default_rng(0)
    reports: list[Report | None] = [
        RoundReport(train_loss=-1 + loss, val_loss=loss, mean_dice=dice, dice={"organ": dice, "lesion": 1 - dice})
        for loss, dice in zip(rng.normal(size=5), rng.random(5), strict=True)
    ]
    reports[3] = None
    there = [report for report in reports if isinstance(report, RoundReport)]
    mean = from_sums(_sums(reports, is_round=True), LABELS, is_round=True)
    assert isinstance(mean, RoundReport)
    for name in ("train_loss", "val_loss", "mean_dice"):
        expected = np.mean([getattr(report, name) for report in there])
        assert getattr(mean, name) == pytest.approx(expected, abs=2**-20)
    assert mean.dice["lesion"] == pytest.approx(np.mean([report.dice["lesion"] for report in there]), abs=2**-20)
    assert mean.dice["vessel"] is None


def test_a_figure_of_fewer_than_three_sites_is_no_mean() -> None:
    """Of one site it would be that site's own."""
    with_lesion = ValidationReport(mean_dice=0.5, dice={"organ": 0.5, "lesion": 0.25})
    without = ValidationReport(mean_dice=0.5, dice={"organ": 0.5, "lesion": None})
    for number in range(4):
        reports: list[Report | None] = [with_lesion] * number + [without] * (4 - number)
        mean = from_sums(_sums(reports, is_round=False), LABELS, is_round=False)
        assert mean.dice == {"organ": 0.5, "lesion": 0.25 if number == 3 else None, "vessel": None}


def test_a_loss_that_is_too_large_counts_as_the_largest() -> None:
    report = RoundReport(train_loss=1e8, val_loss=-1e8, mean_dice=1, dice={})
    mean = from_sums(_sums([report] * 3, is_round=True), LABELS, is_round=True)
    assert isinstance(mean, RoundReport)
    assert (mean.train_loss, mean.val_loss, mean.mean_dice) == (2**20, -(2**20), 1)
