"""The coordinate-wise median.

Yin et al., *Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates*, ICML 2018,
algorithm 1, option I. A site counts once, whatever its weight: the median withstands a number of wrong sites.
"""

from collections.abc import Sequence

import numpy as np


def median(models: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    """Return the median of the sites' models, element by element.

    Parameters
    ----------
    models
        At least one, float32, all of one shape ``(n,)``.
    weights
        Not used.

    Returns
    -------
    Shape ``(n,)``, float32; for an even number of sites the mean of the two in the middle.
    """
    ordered = np.sort(np.stack(models), axis=0)
    lower, upper = ordered[(len(models) - 1) // 2], ordered[len(models) // 2]
    middle: np.ndarray = (lower.astype(np.float64) + upper) / 2
    return middle.astype(np.float32)
