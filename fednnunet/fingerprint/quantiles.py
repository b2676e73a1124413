"""Computes percentiles from order statistics, equal to ``numpy.percentile`` (method ``linear``) to the last bit."""

import math
from collections.abc import Mapping

import numpy as np


def ranks(number: int, percentile: float) -> tuple[int, int]:
    """Return the ranks, from 0, of the two numbers among `number` between which a percentile lies."""
    position = _position(number, percentile)
    return (number - 1, number - 1) if position >= number - 1 else (math.floor(position), math.floor(position) + 1)


def interpolate(number: int, percentile: float, by_rank: Mapping[int, np.ndarray], dtype: str) -> float:
    """Return a percentile of `number` numbers.

    Parameters
    ----------
    number
        How many numbers there are.
    percentile
        From 0 to 100.
    by_rank
        The numbers at the two `ranks`.
    dtype
        What NumPy would compute with: float32 and float64 differ in how they round the difference.
    """
    lower, upper = ranks(number, percentile)
    low, high = by_rank[lower].astype(dtype), by_rank[upper].astype(dtype)
    position = _position(number, percentile)
    weight = np.float64(position - math.floor(position)) if lower != upper else np.float64(0)
    # NumPy interpolates from the nearer end
    return float(low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight))


def _position(number: int, percentile: float) -> float:
    return (number - 1) * (percentile / 100)
