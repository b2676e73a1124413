"""FedYogi: Reddi et al., *Adaptive Federated Optimization*, ICLR 2021, algorithm 2."""

import numpy as np

from fednnunet.weights.server_optimizers.adam import Adam


class Yogi(Adam):
    """FedAdam whose second moment changes by no more than the square of the difference, in either direction."""

    def _second_moment(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        moment: np.ndarray = before - (1 - self._beta_2) * square * np.sign(before - square)
        return moment
