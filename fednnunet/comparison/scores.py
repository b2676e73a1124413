"""Reads the scores of models on test cases, and derives means and paired differences."""

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.metrics import METRICS, Scores

ScoreTable: TypeAlias = dict[tuple[str, str], Scores]
"""The metrics of each case and label."""


def read_scores(path: Path) -> ScoreTable:
    """Return the table of cases and labels that ``evaluate`` has written.

    Raises
    ------
    FednnUNetError
        If it is not there, or is no such table.
    """
    scores: ScoreTable = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = {metric: float(row[metric]) for metric in METRICS if row.get(metric)}
                finite = {metric: value for metric, value in values.items() if math.isfinite(value)}
                scores[row["case"], row["label"]] = Scores(**finite)
    except (OSError, ValueError, KeyError) as error:
        raise FednnUNetError(f"{path} cannot be read ({error}): run the same command with --overwrite.") from error
    return scores


def of_pooled_cases(scores: ScoreTable, sites: Sequence[str]) -> dict[str, ScoreTable]:
    """Return, by site, the scores of cases that are named ``SITE_CASE``."""
    return {
        site: {
            (case.removeprefix(f"{site}_"), label): values
            for (case, label), values in scores.items()
            if case.startswith(f"{site}_")
        }
        for site in sites
    }


def joined(scores: Mapping[str, ScoreTable]) -> ScoreTable:
    """Return the scores of several datasets as those of one."""
    return {(f"{name}/{case}", label): values for name, of in scores.items() for (case, label), values in of.items()}


def mean_of_models(models: Sequence[ScoreTable]) -> ScoreTable:
    """Return, by case and label, the mean over the models that have a value there."""
    keys = dict.fromkeys(key for scores in models for key in scores)
    return {
        key: Scores(*(_mean(getattr(scores[key], metric) for scores in models if key in scores) for metric in METRICS))
        for key in keys
    }


def by_case(scores: ScoreTable, metric: str, label: str | None = None) -> dict[str, float]:
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
    return _by_case({key: getattr(values, metric) for key, values in scores.items()}, label)


def mean_over_sites(values: Sequence[float | None]) -> float | None:
    """Return the mean in which each site counts the same, ``None`` unless all have a value."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there and len(there) == len(values) else None


def paired_differences(
    scores: ScoreTable, reference: ScoreTable, metric: str, label: str | None = None
) -> dict[str, float]:
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
        key: value - other
        for key, values in scores.items()
        if (value := getattr(values, metric)) is not None
        and (other := getattr(reference.get(key), metric, None)) is not None
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


def _by_case(values: Mapping[tuple[str, str], float | None], label: str | None) -> dict[str, float]:
    cases: dict[str, list[float]] = {}
    for (case, of_label), value in values.items():
        if value is not None and label in (None, of_label):
            cases.setdefault(case, []).append(value)
    return {case: statistics.fmean(of_case) for case, of_case in cases.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
