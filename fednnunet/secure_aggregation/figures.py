"""Losses and Dice as terms of masked sums: means over sites, of which nobody sees a single one."""

from collections.abc import Sequence

from fednnunet.protocol.messages import RoundReport, ValidationReport
from fednnunet.protocol.secure_aggregation import SumRequest
from fednnunet.secure_aggregation.attempts import FEWEST_SITES, Context
from fednnunet.secure_aggregation.contexts import TrainingFacts

_UNIT = 2.0**-20
_LARGEST = 2.0**20
"""A loss beyond this counts as one of this size."""
_WIDTH = 8

Report = RoundReport | ValidationReport


def figures_context(facts: TrainingFacts, request: SumRequest) -> Context:
    """Return what the sums of the figures of one round are about; of the full validation, of the one after the last."""
    return {
        "version": 1,
        "purpose": request.purpose,
        "run": facts.run,
        "fold": str(facts.fold),
        "round": request.round,
        "list of sites": facts.sites_digest,
    }


def widths_of(labels: Sequence[str], *, is_round: bool) -> list[int]:
    """Return the bytes of each integer: two for each figure, its value and whether there is one."""
    return [_WIDTH] * 2 * (len(labels) + (3 if is_round else 1))


def to_terms(report: Report | None, labels: Sequence[str], *, is_round: bool) -> list[int]:
    """Return a site's figures as integers, in units of 2**-20.

    Parameters
    ----------
    report
        What may be told; ``None`` for nothing.
    labels
        Labels and regions, in an order on which all sites agree.
    is_round
        Whether it is of a round, and has losses.
    """
    figures: list[float | None] = [None] * (len(widths_of(labels, is_round=is_round)) // 2)
    if report is not None:
        losses = [report.train_loss, report.val_loss] if isinstance(report, RoundReport) else []
        figures = [*losses, report.mean_dice, *(report.dice.get(label) for label in labels)]
    return [term for figure in figures for term in _terms(figure)]


def from_sums(sums: Sequence[int], labels: Sequence[str], *, is_round: bool) -> Report:
    """Return the means over those sites that have a figure, if these are as many as a sum needs."""
    means = [
        value * _UNIT / number if number >= FEWEST_SITES else None
        for value, number in zip(sums[::2], sums[1::2], strict=True)
    ]
    dice = dict(zip(labels, map(_fraction, means[len(means) - len(labels) :]), strict=True))
    mean_dice = _fraction(means[2 if is_round else 0])
    if not is_round:
        return ValidationReport(mean_dice=mean_dice, dice=dice)
    return RoundReport(train_loss=means[0], val_loss=means[1], mean_dice=mean_dice, dice=dice)


def _terms(figure: float | None) -> tuple[int, int]:
    return (0, 0) if figure is None else (round(min(max(figure, -_LARGEST), _LARGEST) / _UNIT), 1)


def _fraction(mean: float | None) -> float | None:
    return None if mean is None else min(max(mean, 0.0), 1.0)
