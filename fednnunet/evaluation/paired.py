"""Differences between two models on the same cases, with their confidence interval."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences.

    Parameters
    ----------
    mean
        Mean over the cases.
    low, high
        Ends of the 95 % confidence interval of the mean, ``None`` for a single case.
    cases
        Number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    cases: int


def confidence(differences: Iterable[float], level: float = 0.95) -> Difference | None:
    """Return the mean of paired differences and its confidence interval, ``None`` if there are none.

    The interval is Student's: mean ± t · s / √n, with s the standard deviation of the n differences and t the quantile
    of the t distribution with n - 1 degrees of freedom. It takes the cases for independent.

    Parameters
    ----------
    differences
        One for each case.
    level
        Probability of the interval.
    """
    values = list(differences)
    if not values:
        return None
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Difference(mean, None, None, n)
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)
