"""Weighted federated averaging.

McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017,
algorithm 1: the global model is the mean of the sites' models, each weighted by its number of training cases.
"""

from collections.abc import Iterable

import numpy as np

from fednnunet.errors import FednnUNetError


def weighted_mean(updates: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """Average packed models.

    The sum runs in float64, where the product of a float32 and a case count is exact: a single update comes back bit
    for bit, and the order of the updates does not show in the float32 result but for ties. Memory is that of one sum,
    however many updates there are.

    Parameters
    ----------
    updates
        Pairs of a packed model, shape ``(n,)`` and float32, and its weight, at least 1 (a number of cases).

    Returns
    -------
    numpy.ndarray
        Shape ``(n,)``, float32.

    Raises
    ------
    FednnUNetError
        If there are no updates, or their lengths differ.
    """
    total: np.ndarray | None = None
    total_weight = 0
    for update, weight in updates:
        if total is None:
            total = np.zeros(update.shape, dtype=np.float64)
        if update.shape != total.shape:
            raise FednnUNetError(f"Models of different lengths cannot be averaged: {update.shape} and {total.shape}.")
        total += np.multiply(update, weight, dtype=np.float64)
        total_weight += weight
    if total is None:
        raise FednnUNetError("There are no updates to average.")
    return (total / total_weight).astype(np.float32)
