"""Server optimizers: apply the difference between the aggregated and the last global model; one rule per file.

Reddi et al., *Adaptive Federated Optimization*, ICLR 2021, algorithm 2, where the difference takes the place of a
gradient. All rules work element by element, so a model can be updated slice by slice.
"""

from typing import Literal, Protocol

import numpy as np

from fednnunet.weights.server_optimizers.adam import Adam
from fednnunet.weights.server_optimizers.momentum import Momentum
from fednnunet.weights.server_optimizers.yogi import Yogi

ServerOptimizerName = Literal["none", "momentum", "adam", "yogi"]


SERVER_OPTIMIZERS: dict[ServerOptimizerName, type[Momentum] | type[Adam] | type[Yogi] | None] = {
    "none": None,
    "momentum": Momentum,
    "adam": Adam,
    "yogi": Yogi,
}


class ServerOptimizer(Protocol):
    """State of an optimizer over a whole model."""

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The state, by name: the arrays themselves, float32 of the model's size."""

    def step(self, part: slice, difference: np.ndarray) -> np.ndarray:
        """Return the change of a part of the global model, float32, given the aggregated difference, float32."""


def server_optimizer(name: ServerOptimizerName, size: int, learning_rate: float | None) -> ServerOptimizer | None:
    """Return an optimizer for a model of `size` elements; none adds the difference as it is."""
    kind = SERVER_OPTIMIZERS[name]
    if kind is None:
        return None
    return kind(size) if learning_rate is None else kind(size, learning_rate)
