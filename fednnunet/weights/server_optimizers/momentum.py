"""Momentum at the coordinator.

Hsu et al., *Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification*,
2019 (FedAvgM).
"""

import numpy as np


class Momentum:
    """Adds an exponentially decaying sum of all differences so far.

    Parameters
    ----------
    size
        Elements of the model.
    learning_rate
        What the sum is multiplied with.
    decay
        How much of the sum is left after a round.
    """

    def __init__(self, size: int, learning_rate: float = 1.0, decay: float = 0.9) -> None:
        self._learning_rate = np.float32(learning_rate)
        self._decay = np.float32(decay)
        self._sum = np.zeros(size, np.float32)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The sum."""
        return {"sum": self._sum}

    def step(self, part: slice, difference: np.ndarray) -> np.ndarray:
        """Return the change of a part of the global model."""
        self._sum[part] = self._decay * self._sum[part] + difference
        change: np.ndarray = self._learning_rate * self._sum[part]
        return change
