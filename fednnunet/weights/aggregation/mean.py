"""Federated averaging.

McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017,
algorithm 1: the global model is the mean of the sites' models, each weighted by its number of training cases.
"""

from collections.abc import Sequence

import numpy as np


def weighted_mean(models: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    """Return the weighted mean of the sites' models.

    The sum runs in float64, where the product of a float32 and a number of cases is exact: a single model comes back
    bit for bit.

    Parameters
    ----------
    models
        At least one, float32, all of one shape ``(n,)``.
    weights
        One for each model, at least 1.

    Returns
    -------
    Shape ``(n,)``, float32.
    """
    total = np.zeros(models[0].shape, dtype=np.float64)
    for model, weight in zip(models, weights, strict=True):
        total += np.multiply(model, weight, dtype=np.float64)
    total /= sum(weights)
    return total.astype(np.float32)
