"""Selects the figures of a report that enough cases support."""

from fednnunet.protocol.messages import Gain, GainReport, RoundReport, Support, ValidationReport


def enough(report: RoundReport | ValidationReport, min_cases: int) -> RoundReport | ValidationReport | None:
    """Return a report without the figures behind which there are too few cases, ``None`` if nothing would be left.

    Where the Dice of one label is left out the mean is, too: it would give that away. So is how many cases there are.
    """
    if min_cases <= 1:
        return report
    support = report.support or Support()
    if (support.validation or 0) < min_cases:
        return None
    few = {label for label in report.dice if (support.labels.get(label) or 0) < min_cases}
    is_hidden = any(report.dice[label] is not None for label in few)
    changes: dict[str, object] = {
        "dice": {label: None if label in few else value for label, value in report.dice.items()},
        "mean_dice": None if is_hidden else report.mean_dice,
    }
    counts: dict[str, object] = {
        "labels": {
            label: None if cases is None or cases < min_cases else cases for label, cases in support.labels.items()
        }
    }
    if isinstance(report, RoundReport) and (support.training or 0) < min_cases:
        changes["train_loss"] = counts["training"] = None
    return report.model_copy(update={**changes, "support": support.model_copy(update=counts)})


def enough_gain(report: GainReport, min_cases: int) -> GainReport | None:
    """Return a report without the figures behind which there are too few cases, ``None`` if nothing would be left.

    Where one label is left out, what is told over all labels is, too: it would give that away.
    """
    if min_cases <= 1:
        return report
    few = {label for label, gain in report.labels.items() if (gain.fewest or 0) < min_cases}
    labels = {label: Gain() if label in few else gain for label, gain in report.labels.items()}
    if all(label in few for label in labels):
        return None
    is_hidden = any(report.labels[label].cases for label in few) or (report.overall.fewest or 0) < min_cases
    changes: dict[str, object] = {"overall": Gain(), "advice": None, "is_certain": False} if is_hidden else {}
    return report.model_copy(update={"labels": labels, **changes})
