"""FedAdam: Reddi et al., *Adaptive Federated Optimization*, ICLR 2021, algorithm 2."""

import numpy as np

_LARGEST = np.float32(1e18)


class Adam:
    """Divides the mean of the differences by the root of the mean of their squares, both decaying.

    Parameters
    ----------
    size
        Elements of the model.
    learning_rate
        The paper's eta.
    beta_1, beta_2
        How much of either mean is left after a round.
    tau
        The degree of adaptivity, against division by zero.
    """

    def __init__(
        self, size: int, learning_rate: float = 1e-2, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3
    ) -> None:
        self._learning_rate = np.float32(learning_rate)
        self._beta_1, self._beta_2, self._tau = np.float32(beta_1), np.float32(beta_2), np.float32(tau)
        self._mean = np.zeros(size, np.float32)
        self._square = np.full(size, tau**2, np.float32)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Both means."""
        return {"mean": self._mean, "square": self._square}

    def step(self, part: slice, difference: np.ndarray) -> np.ndarray:
        """Return the change of a part of the global model."""
        self._mean[part] = self._beta_1 * self._mean[part] + (1 - self._beta_1) * difference
        self._square[part] = self._second_moment(self._square[part], _square(difference))
        change: np.ndarray = self._learning_rate * self._mean[part] / (np.sqrt(self._square[part]) + self._tau)
        return change

    def _second_moment(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        moment: np.ndarray = self._beta_2 * before + (1 - self._beta_2) * square
        return moment


def _square(difference: np.ndarray) -> np.ndarray:
    """Return the squares, which stay finite: one infinite second moment would never move its weight again."""
    bounded = difference.clip(-_LARGEST, _LARGEST)
    squares: np.ndarray = bounded * bounded
    return squares
