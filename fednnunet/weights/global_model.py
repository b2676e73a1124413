"""The coordinator's copy of the weights of a group of sites, reduced slice by slice."""

from collections.abc import Iterator, Sequence

import numpy as np

from fednnunet.weights.aggregation import Aggregation
from fednnunet.weights.encoding import Encoding, Sender, rounding
from fednnunet.weights.norms import squared_norm
from fednnunet.weights.server_optimizers import ServerOptimizer

_BYTES_IN_FLIGHT = 24 << 20
_LARGEST_SLICE = 1 << 20


def slices(size: int, sites: int) -> Iterator[slice]:
    """Yield the slices in which a model of `size` elements travels.

    Those of all sites together take no more than 24 MiB in float32, whatever their number, and one 4 MiB at most.
    """
    length = max(1, min(_LARGEST_SLICE, _BYTES_IN_FLIGHT // (4 * sites)))
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


class GlobalModel:
    """The weights that all sites of a group have, and how they become the next ones.

    A round has two steps. `aggregate` makes one model of the updates, part by part, and can be begun again with other
    sites; `advance` makes the result the global model, part by part.

    Memory is one float32 model, a second one for what was aggregated, a third one for rounding errors if the encoding
    has any, and what the server optimizer keeps; it does not grow with the number of sites.

    Parameters
    ----------
    initial
        What the sites have at first; shape ``(n,)``, float32.
    encoding
        How updates come up, and the global model goes down.
    aggregation
        How one model is made of several.
    optimizer
        What is made of the aggregated difference; ``None`` adds it as it is.
    number
        Number of the group, from which rounding is derived.
    """

    def __init__(
        self,
        initial: np.ndarray,
        encoding: Encoding,
        aggregation: Aggregation,
        optimizer: ServerOptimizer | None = None,
        number: int = 0,
    ) -> None:
        self.weights = initial
        self._aggregated = np.empty_like(initial)
        self._encoding = encoding
        self._aggregation = aggregation
        self._optimizer = optimizer
        self._number = number
        self._sender = Sender(encoding, len(initial))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """All that the next round depends on, by name: the arrays themselves, float32 of shape ``(n,)``."""
        error = {} if self._sender.error is None else {"error": self._sender.error}
        return {"weights": self.weights, **error, **(self._optimizer.state if self._optimizer is not None else {})}

    def decode(self, data: bytes, part: slice) -> np.ndarray:
        """Return a part of one site's update as `aggregate` takes it.

        Raises
        ------
        FednnUNetError
            If it has another length or is not finite.
        """
        return self._encoding.decode(data, part.stop - part.start)

    def aggregate(self, part: slice, updates: Sequence[np.ndarray], weights: Sequence[int]) -> None:
        """Aggregate a part of the sites' updates.

        Parameters
        ----------
        part
            Which part.
        updates
            That part of each site's update, as `decode` gives it, always in the same order of sites.
        weights
            Of each site.
        """
        self._aggregated[part] = self._aggregation(updates, weights)

    def keep(self) -> None:
        """Aggregate as if no site had changed anything."""
        self._aggregated[:] = self.weights if self._encoding.is_exact else 0

    def largest(self, part: slice | None = None, update: np.ndarray | None = None) -> float:
        """Return the largest absolute number of a part of one site's model, or of the global one."""
        if part is None or update is None:
            model = self.weights
        else:
            model = update if self._encoding.is_exact else update + self.weights[part]
        return float(max(model.max(initial=0.0), -model.min(initial=0.0)))

    def squared_change(self, part: slice, update: np.ndarray) -> float:
        """Return the squared L2 norm of what a part of one site's update, as `decode` gives it, would change."""
        return squared_norm(update, self.weights[part] if self._encoding.is_exact else None)

    def advance(self, part: slice, round_number: int) -> bytes:
        """Make a part of what was aggregated that part of the next global model.

        Parameters
        ----------
        part
            Which part; each one once in a round.
        round_number
            The round, from which rounding is derived.

        Returns
        -------
        That part of the global model, encoded for all sites.
        """
        known, model = self.weights[part], self._aggregated[part]
        if not self._encoding.is_exact:
            model = model + known  # updates are differences to what the sites have
        if self._optimizer is not None:
            model = known + self._optimizer.step(part, model - known)
        random = rounding(round_number, self._number, part.start)
        data, self.weights[part] = self._sender.encode(part, model, known, random)
        return data
