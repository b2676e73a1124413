"""Aggregates the metrics of single cases over cases and sites."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fednnunet.evaluation.metrics import DIGITS, METRICS, MetricName, Scores
from fednnunet.files import replacing
from fednnunet.table_cells import write_csv


@dataclass(frozen=True)
class Summary:
    """A metric over cases; all ``None`` where there are too few cases to disclose.

    Attributes
    ----------
    mean, std, median
        `std` is the sample standard deviation (divided by n - 1), ``None`` for one case. For cases of several sites
        there is no median.
    cases
        Cases that have a value.
    """

    mean: float | None = None
    std: float | None = None
    median: float | None = None
    cases: int | None = None


CaseScores = Mapping[str, Mapping[str, Scores]]
"""The metrics of each label of each case."""


def summarize(values: Iterable[float | None], min_cases: int = 1) -> Summary:
    """Return the summary of one metric.

    Parameters
    ----------
    values
        The metric of each case; ``None`` for a case that has no value, and does not count.
    min_cases
        Values without which nothing is told, not even how many there are. As many cases have to lack one, if any
        does: else what is told of all cases and what is told of these would differ by a few patients.
    """
    of_cases = list(values)
    there = [value for value in of_cases if value is not None]
    missing = len(of_cases) - len(there)
    if len(there) < max(1, min_cases) or 0 < missing < min_cases:
        return Summary()
    std = statistics.stdev(there) if len(there) > 1 else None
    return Summary(statistics.fmean(there), std, statistics.median(there), len(there))


def summarize_cases(
    cases: CaseScores, labels: Iterable[str], min_cases: int = 1
) -> dict[str, dict[MetricName, Summary]]:
    """Return the summaries of all metrics, by label and by name of the metric.

    Parameters
    ----------
    cases
        The metrics of all cases.
    labels
        The labels, each of which is summarized even if no case has it.
    min_cases
        See `summarize`.
    """
    return {
        label: {
            metric: summarize((getattr(scores[label], metric) for scores in cases.values()), min_cases)
            for metric in METRICS
        }
        for label in labels
    }


def summarize_overall(cases: CaseScores, labels: Iterable[str], min_cases: int = 1) -> dict[MetricName, Summary]:
    """Return the summaries of all metrics where a case counts with the mean over those of its labels with a value.

    It is over labels of which the metric is told. Cases that have the same ones of these make up a sum that the figures
    of overall and labels together may give away, so it is told only if there are none, or `min_cases`, of each sort.

    Parameters
    ----------
    cases, labels, min_cases
        See `summarize_cases`.
    """
    return {metric: _overall(cases, list(labels), metric, min_cases) for metric in METRICS}


def rounded(summary: Summary, metric: MetricName, min_cases: int) -> Summary:
    """Return a summary with no more digits than a table shows, unless it may be told of single cases anyway.

    From more digits, the value of one case could be computed.
    """
    if min_cases <= 1:
        return summary
    digits = DIGITS[metric]
    mean, std, median = (
        None if value is None else round(value, digits) for value in (summary.mean, summary.std, summary.median)
    )
    return Summary(mean, std, median, summary.cases)


def pooled(sites: Iterable[Summary]) -> Summary:
    """Return mean and standard deviation over the cases of all sites, which are those of the pooled cases.

    With n_i cases, means m_i and standard deviations s_i, M the pooled mean and N the sum of n_i, the variance is
    (Σ (n_i - 1) s_i² + Σ n_i (m_i - M)²) / (N - 1). Sites that tell nothing do not count.
    """
    told = [(site.cases, site.mean, site.std or 0.0) for site in sites if site.cases and site.mean is not None]
    cases = sum(number for number, _, _ in told)
    if not cases:
        return Summary()
    mean = math.fsum(number * of_site for number, of_site, _ in told) / cases
    if cases == 1:
        return Summary(mean, None, None, 1)
    squares = math.fsum((number - 1) * std**2 + number * (of_site - mean) ** 2 for number, of_site, std in told)
    return Summary(mean, math.sqrt(squares / (cases - 1)), None, cases)


def write_cases(path: Path, cases: CaseScores) -> None:
    """Write a CSV file with one row for each case and label; a cell is empty where there is no value."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        write_csv(file, _rows(cases))


def _rows(cases: CaseScores) -> Iterator[tuple[str, ...]]:
    yield ("case", "label", *METRICS)
    for case, labels in cases.items():
        for label, scores in labels.items():
            values = (getattr(scores, metric) for metric in METRICS)
            yield (case, label, *("" if value is None else repr(value) for value in values))


def _overall(cases: CaseScores, labels: list[str], metric: str, min_cases: int) -> Summary:
    table = {label: [getattr(scores[label], metric) for scores in cases.values()] for label in labels}
    told = [values for values in table.values() if summarize(values, min_cases) != Summary()]
    rows = [tuple(row) for row in zip(*told, strict=True)]
    sorts = Counter(tuple(value is None for value in row) for row in rows)
    if any(number < min_cases for number in sorts.values()):
        return Summary()
    there = ([value for value in row if value is not None] for row in rows)
    return summarize((statistics.fmean(values) if values else None for values in there), min_cases)
