"""Restricts the figures of a site to the labels of its introduction."""

import logging
from typing import TypeVar

from fednnunet.protocol.messages import EvaluationReport, GainReport, Hello, RoundReport, ValidationReport
from fednnunet.schema import cleaned

logger = logging.getLogger(__name__)

Report = TypeVar("Report", RoundReport, ValidationReport, EvaluationReport, GainReport)

_LONGEST_SHOWN = 100


def of_own_labels(report: Report, hello: Hello) -> Report:
    """Return a report restricted to the site's own labels.

    Otherwise, it could fill tables, and the memory of whoever keeps them, with new names in every round.
    """
    field = "labels" if isinstance(report, EvaluationReport | GainReport) else "dice"
    figures = getattr(report, field)
    own = {name: value for name, value in figures.items() if name in hello.labels}
    if len(own) == len(figures):
        return report
    other = next(name for name in figures if name not in hello.labels)
    logger.warning(
        "Site %s reports figures of %s, which is not among the labels of its introduction: they are left out.",
        hello.site,
        cleaned(other, _LONGEST_SHOWN),
    )
    return report.model_copy(update={field: own})
