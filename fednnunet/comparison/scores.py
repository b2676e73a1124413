"""What models achieve on test cases, and the means and differences that a comparison tells of them."""

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fednnunet.errors import FednnUNetError

METRICS = ("dice", "hd95", "assd", "nsd")

Scores: TypeAlias = dict[tuple[str, str], dict[str, float]]
"""By case and label the metrics that have a value there: HD95 has none where a label is missing, for example."""


@dataclass(frozen=True)
class Summary:
    """Cases in one number.

    Parameters
    ----------
    mean
        Mean over the cases.
    deviation
        Standard deviation over the cases (of a sample), ``None`` for a single one.
    cases
        How many have a value.
    """

    mean: float
    deviation: float | None
    cases: int


def read_scores(path: Path) -> Scores:
    """Return the table of cases and labels that ``evaluate`` has written.

    Raises
    ------
    FednnUNetError
        If it is not there, or is no such table.
    """
    scores: Scores = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = {metric: float(row[metric]) for metric in METRICS if row.get(metric)}
                finite = {metric: value for metric, value in values.items() if math.isfinite(value)}
                scores[row["case"], row["label"]] = finite
    except (OSError, ValueError, KeyError) as error:
        raise FednnUNetError(f"{path} cannot be read ({error}): run the same command with --overwrite.") from error
    return scores


def of_pooled_cases(scores: Scores, sites: Sequence[str]) -> dict[str, Scores]:
    """Return, by site, the scores of cases that are named ``SITE_CASE``."""
    return {
        site: {
            (case.removeprefix(f"{site}_"), label): values
            for (case, label), values in scores.items()
            if case.startswith(f"{site}_")
        }
        for site in sites
    }


def joined(scores: Mapping[str, Scores]) -> Scores:
    """Return the scores of several datasets as those of one."""
    return {(f"{name}/{case}", label): values for name, of in scores.items() for (case, label), values in of.items()}


def mean_of_models(models: Sequence[Scores]) -> Scores:
    """Return, by case and label, the mean over the models that have a value there."""
    keys = dict.fromkeys(key for scores in models for key in scores)
    return {
        key: {
            metric: mean
            for metric in METRICS
            if (mean := _mean(scores[key][metric] for scores in models if metric in scores.get(key, {}))) is not None
        }
        for key in keys
    }


def by_case(scores: Scores, metric: str, label: str | None = None) -> dict[str, float]:
    """Return each case's mean over its labels that have a value; cases without any are missing.

    Parameters
    ----------
    scores
        The scores.
    metric
        One of `METRICS`.
    label
        Only this label.
    """
    return _by_case({key: values[metric] for key, values in scores.items() if metric in values}, label)


def summary(values: Iterable[float]) -> Summary | None:
    """Return the mean and its spread over cases, ``None`` if there are none."""
    values = list(values)
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, len(values))


def mean_over_sites(values: Sequence[float | None]) -> float | None:
    """Return the mean in which each site counts the same, ``None`` unless all have a value."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there and len(there) == len(values) else None


def paired_differences(scores: Scores, reference: Scores, metric: str, label: str | None = None) -> dict[str, float]:
    """Return by how much each case is above the reference.

    A case's difference is the mean over the labels for which both have a value, so it compares like with like.

    Parameters
    ----------
    scores, reference
        What two methods achieve on the same cases.
    metric
        One of `METRICS`.
    label
        Only this label.
    """
    both = {
        key: values[metric] - reference[key][metric]
        for key, values in scores.items()
        if metric in values and metric in reference.get(key, {})
    }
    return _by_case(both, label)


def best(values: Mapping[str, float | None], *, highest: bool, digits: int) -> set[str]:
    """Return whose value is the best as it is shown, with so many decimals; several if they are equal."""
    shown = {name: round(value, digits) for name, value in values.items() if value is not None}
    if not shown:
        return set()
    choose: Callable[[Iterable[float]], float] = max if highest else min
    winner = choose(shown.values())
    return {name for name, value in shown.items() if value == winner}


def _by_case(values: Mapping[tuple[str, str], float], label: str | None) -> dict[str, float]:
    cases: dict[str, list[float]] = {}
    for (case, of_label), value in values.items():
        if label is None or of_label == label:
            cases.setdefault(case, []).append(value)
    return {case: statistics.fmean(of_case) for case, of_case in cases.items()}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None
