"""Federated averaging.

McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017,
algorithm 1: the global model is the mean of the sites' models, each weighted by its number of training cases.
"""

from collections.abc import Sequence

import numpy as np

_CHUNK = 1 << 15
"""Elements whose sum stays in the processor's cache."""


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
    mean = np.empty_like(models[0])
    for start in range(0, len(mean), _CHUNK):
        part = slice(start, start + _CHUNK)
        total = np.multiply(models[0][part], weights[0], dtype=np.float64)
        for model, weight in zip(models[1:], weights[1:], strict=True):
            total += np.multiply(model[part], weight, dtype=np.float64)
        np.divide(total, sum(weights), out=mean[part], casting="same_kind")
    return mean
