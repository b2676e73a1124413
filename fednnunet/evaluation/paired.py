"""Estimates means over cases and seeds with confidence intervals."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, or of values.

    Parameters
    ----------
    mean
        Mean over the cases.
    low, high
        Ends of the 95 % confidence interval of the mean, ``None`` for a single case.
    cases
        Number of cases.
    seeds
        Number of trainings, each with all of the cases.
    """

    mean: float
    low: float | None
    high: float | None
    cases: int
    seeds: int = 1


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

    error = statistics.stdev(values) / math.sqrt(n)
    low, high = map(float, t.interval(level, n - 1, mean, error)) if error else (mean, mean)
    return Difference(mean, low, high, n)


def crossed_confidence(differences: Sequence[Sequence[float]], level: float = 0.95) -> Difference | None:
    """Return the mean over seeds and cases, and an interval for other seeds *and* other cases.

    Each difference is taken for a mean, plus an effect of its seed, plus one of its case, plus a rest, all random and
    independent. With mean squares A of seeds, B of cases and R of the rest, the variance of the mean over S seeds and
    n cases is (A + B - R) / S n, and Satterthwaite's degrees of freedom go with it; as components of variance
    are not negative, A and B are the least that the sum can be. With one seed it is `confidence`.

    Parameters
    ----------
    differences
        For each seed, one for each case; the same cases in the same order.
    level
        Probability of the interval.
    """
    seeds, cases = len(differences), len(differences[0]) if differences else 0
    if seeds < 2 or cases < 2:
        found = confidence([value for of_seed in differences for value in of_seed], level)
        return found and replace(found, cases=cases, seeds=seeds)
    import numpy as np
    from scipy.stats import t

    values = np.array(differences, np.float64)
    mean = float(values.mean())
    of_seeds, of_cases = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seeds[:, None] - of_cases + mean
    squares = [cases * of_seeds.var(ddof=1), seeds * of_cases.var(ddof=1), (rest**2).sum() / (seeds - 1) / (cases - 1)]
    freedoms = [seeds - 1, cases - 1, (seeds - 1) * (cases - 1)]
    total = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if total == 0:
        return Difference(mean, mean, mean, cases, seeds)
    freedom = total**2 / sum(square**2 / of for square, of in zip(squares, freedoms, strict=True))
    error = math.sqrt(total / seeds / cases)
    low, high = map(float, t.interval(level, max(freedom, min(freedoms[:2])), mean, error))
    return Difference(mean, low, high, cases, seeds)
