"""One stage of a task, as a Flower strategy."""

import abc

from flwr.common import FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy

NOTHING = Parameters(tensors=[], tensor_type="numpy.ndarray")
"""What travels where no arrays do."""


class Stage(Strategy):
    """A Flower strategy that knows its title, its rounds, and what to do at the end.

    The federation calls ``initialize_parameters`` once; for each of `rounds` ``configure_fit``, ``aggregate_fit``,
    ``configure_evaluate`` and ``aggregate_evaluate``; then `conclude`. Sites that fail never get as far as the
    ``aggregate`` methods.
    """

    title: str

    @abc.abstractmethod
    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Return what the first round starts from."""

    @abc.abstractmethod
    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters, dict[str, Scalar]]:
        """Make one result of what the sites sent."""

    @property
    @abc.abstractmethod
    def rounds(self) -> range:
        """Numbers of the rounds to do; known once ``initialize_parameters`` has returned."""

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        """Do nothing: the coordinator has no data to evaluate on."""
        return None

    @abc.abstractmethod
    def conclude(self) -> None:
        """Do what is left after the last round."""
