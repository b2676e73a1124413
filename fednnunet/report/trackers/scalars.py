"""Converts events to named scalars."""

import math
import re
from collections.abc import Iterator, Mapping

from fednnunet.evaluation.metrics import METRICS, MetricName
from fednnunet.events.events import FoldValidated, RoundCompleted, SitesEvaluated
from fednnunet.protocol.messages import MetricSummaries
from fednnunet.report.formats import mean, shares

_UNUSUAL = re.compile(r"[^\w. -]")


def scalars(event: RoundCompleted | FoldValidated | SitesEvaluated) -> dict[str, float]:
    """Return the numbers of an event; those that are missing, NaN or infinite are left out.

    Returns
    -------
    Numbers by name, such as ``pseudo_dice/SITE`` or ``seconds/moving``. No name is the beginning of another one's path,
    which some trackers cannot keep.
    """
    match event:
        case RoundCompleted():
            named = _of_round(event)
        case FoldValidated():
            named = _of_validation(event)
        case SitesEvaluated():
            named = _of_evaluation(event)
    scalars: dict[str, float] = {}
    taken: set[str] = set()
    for name, value in named:
        while name in taken:  # trackers would not tell the two names apart
            name += "_"
        taken.add(name)
        if value is not None and math.isfinite(value):
            scalars[name] = float(value)
    return scalars


_Named = Iterator[tuple[str, float | None]]


def _of_round(event: RoundCompleted) -> _Named:
    for quantity in ("train_loss", "val_loss"):
        values = {site: getattr(report, quantity) for site, report in event.sites.items()}
        yield from _by_site(quantity, values)
    yield from _by_site("pseudo_dice", {site: report.mean_dice for site, report in event.sites.items()})
    for site, report in event.sites.items():
        for label, value in report.dice.items():
            yield _name("pseudo_dice_of", label, site), value
    yield "seconds/round", event.seconds
    for what, seconds in shares(event).items():
        yield _name("seconds", what), seconds
    for site, traffic in event.traffic.items():
        yield _name("bytes", site), traffic.to_site + traffic.from_site
        yield _name("bytes_to_site", site), traffic.to_site
        yield _name("bytes_from_site", site), traffic.from_site
    yield "sites/taking_part", len(event.sites)
    yield "sites/left_out", len(event.left_out)


def _of_validation(event: FoldValidated) -> _Named:
    yield from _by_site("validation_dice", {site: report.mean_dice for site, report in event.sites.items()})
    for site, report in event.sites.items():
        for label, value in report.dice.items():
            yield _name("validation_dice_of", label, site), value


def _of_evaluation(event: SitesEvaluated) -> _Named:
    for metric in METRICS:
        yield from _by_site(
            f"test_{metric}", {site: _mean_of(report.overall, metric) for site, report in event.sites.items()}
        )
        for site, report in event.sites.items():
            for label, summaries in report.labels.items():
                yield _name(f"test_{metric}_of", label, site), _mean_of(summaries, metric)


def _mean_of(summaries: MetricSummaries, metric: MetricName) -> float | None:
    summary = getattr(summaries, metric)
    return None if summary is None else summary.mean


def _by_site(quantity: str, values: Mapping[str, float | None]) -> _Named:
    """Yield the number of each site, and the mean of all."""
    for site, value in values.items():
        yield _name(quantity, site), value
    yield _name("mean_of_sites", quantity), mean(values.values())


def _name(*parts: str) -> str:
    """Return a name of which all trackers approve; what sites and labels are called is not always such."""
    return "/".join(_UNUSUAL.sub("_", part).strip(". ") or "_" for part in parts)
