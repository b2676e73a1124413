"""The coordinate-wise trimmed mean.

Yin et al., *Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates*, ICML 2018,
algorithm 1, option II. A site counts once, whatever its weight.
"""

from collections.abc import Sequence

import numpy as np

TRIMMED = 0.2
"""The part of the sites whose values are left out at either end: one of five, two of ten."""


def trimmed_mean(models: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    """Return the mean of the sites' models without the largest and the smallest values of each element.

    Of three or four sites one is left out at either end; of one or two, none can be.

    Parameters
    ----------
    models
        At least one, float32, all of one shape ``(n,)``.
    weights
        Not used.

    Returns
    -------
    Shape ``(n,)``, float32.
    """
    number = len(models)
    left_out = max(int(TRIMMED * number), 1 if number > 2 else 0)
    ordered = np.sort(np.stack(models), axis=0)[left_out : number - left_out]
    mean: np.ndarray = ordered.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)
