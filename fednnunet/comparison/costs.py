"""Measures the cost of trainings: time, and bytes between coordinator and sites."""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fednnunet.events.event_files import EventReader
from fednnunet.events.events import RoundCompleted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """Cost of a training.

    Parameters
    ----------
    seconds
        From start to end, including repeated work.
    from_sites, to_sites
        Bytes of all rounds and sites, ``None`` where nothing was exchanged or nothing is known of it.
    """

    seconds: float
    from_sites: float | None = None
    to_sites: float | None = None


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Return the mean over trainings with several seeds."""
    return Cost(
        statistics.fmean(cost.seconds for cost in costs),
        _mean([cost.from_sites for cost in costs]),
        _mean([cost.to_sites for cost in costs]),
    )


def traffic_of(events: Path) -> tuple[int, int] | tuple[None, None]:
    """Return the bytes from and to all sites of a training's rounds, by the file with its events."""
    try:
        rounds = [event for event in EventReader(events).new_events() if isinstance(event, RoundCompleted)]
    except (OSError, ValueError) as error:
        logger.warning("%s does not contain the number of bytes moved: %s", events, error)
        return None, None
    traffic = [of_site for event in rounds for of_site in event.traffic.values()]
    if not traffic:
        return None, None
    return sum(of_site.from_site for of_site in traffic), sum(of_site.to_site for of_site in traffic)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there and len(there) == len(values) else None
