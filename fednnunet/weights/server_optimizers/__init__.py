"""Server optimizers: apply the difference between the aggregated and the last global model; one rule per file.

Reddi et al., *Adaptive Federated Optimization*, ICLR 2021, algorithm 2, where the difference takes the place of a
gradient. All rules work element by element, so a model can be updated slice by slice.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.weights.registry import Registry
from fednnunet.weights.server_optimizers.adam import Adam
from fednnunet.weights.server_optimizers.momentum import Momentum
from fednnunet.weights.server_optimizers.yogi import Yogi

ServerOptimizerName = str
"""One of `SERVER_OPTIMIZERS`."""


class ServerOptimizer(Protocol):
    """State of an optimizer over a whole model."""

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The state, by name: the arrays themselves, float32 of the model's size."""

    def step(self, part: slice, difference: np.ndarray) -> np.ndarray:
        """Return the change of a part of the global model, float32, given the aggregated difference, float32."""


MakesOptimizer = Callable[..., ServerOptimizer]
"""Makes one for a model of so many elements, with a learning rate or without: ``kind(size)``, ``kind(size, rate)``."""


def check_server_optimizer(kind: MakesOptimizer | None) -> None:
    """Refuse what makes no optimizer that could be kept and gone on with.

    Raises
    ------
    FednnUNetError
        Says what is wrong.
    """
    if kind is None:
        raise FednnUNetError("it is nothing")
    kind(4)
    optimizer = kind(4, 0.1)
    if any(array.shape != (4,) or array.dtype != np.float32 for array in optimizer.state.values()):
        raise FednnUNetError("its state of a model of 4 elements is not made of arrays of float32 (4,)")
    change: object = optimizer.step(slice(1, 3), np.ones(2, np.float32))
    if not isinstance(change, np.ndarray) or change.shape != (2,) or change.dtype != np.float32:
        raise FednnUNetError("of a difference of shape (2,) it does not make float32 (2,)")


_OWN: dict[str, MakesOptimizer | None] = {"none": None, "momentum": Momentum, "adam": Adam, "yogi": Yogi}
SERVER_OPTIMIZERS: Registry[MakesOptimizer | None] = Registry(
    "server optimizer", "fednnunet.server_optimizers", _OWN, check_server_optimizer
)


def server_optimizer(name: ServerOptimizerName, size: int, learning_rate: float | None) -> ServerOptimizer | None:
    """Return an optimizer for a model of `size` elements; none adds the difference as it is."""
    kind = SERVER_OPTIMIZERS[name]
    if kind is None:
        return None
    return kind(size) if learning_rate is None else kind(size, learning_rate)


def register_server_optimizer(name: str, kind: MakesOptimizer) -> None:
    """Make an optimizer a value of ``--server_optimizer`` in this process; packages bring theirs with an entry point.

    Parameters
    ----------
    name
        Lower-case letters, digits and underscores.
    kind
        ``kind(size)`` and ``kind(size, learning_rate)`` make an optimizer for a model of `size` elements, with `state`
        and `step` as in `ServerOptimizer`.

    Raises
    ------
    FednnUNetError
        If the name is taken, or what is made does not do what it should.

    Examples
    --------
    >>> import fednnunet as fed
    >>> class Damped:
    ...     def __init__(self, size, learning_rate=0.5):
    ...         self.state, self.learning_rate = {}, learning_rate
    ...     def step(self, part, difference):
    ...         return (self.learning_rate * difference).astype("float32")
    >>> fed.register_server_optimizer("damped", Damped)
    """
    SERVER_OPTIMIZERS.register(name, kind)
