"""One stage of a task, as a Flower strategy."""

from collections.abc import Iterable, Sequence

from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy

NOTHING = Parameters(tensors=[], tensor_type="numpy.ndarray")
"""What travels where no arrays do."""


class Stage(Strategy):
    """A Flower strategy that knows its title, its rounds, and what to do at the end.

    The federation calls ``initialize_parameters`` once; for each of `rounds` ``configure_fit``, ``aggregate_fit``,
    ``configure_evaluate`` and ``aggregate_evaluate``; then `conclude`. Whatever a stage has no use for, it leaves as it
    is here: doing nothing.
    """

    title: str
    tolerates_failures = False
    """Whether `aggregate_fit` and `aggregate_evaluate` want to know of sites that fail; if not, they end the task."""

    @property
    def rounds(self) -> Iterable[int]:
        """Numbers of the rounds to do; known, one by one, once ``initialize_parameters`` has returned."""
        return ()

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Return what the first round starts from."""
        return NOTHING

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Return what each site shall work on."""
        return []

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: Sequence[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters, dict[str, Scalar]]:
        """Make one result of what the sites sent."""
        return NOTHING, {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Return what is handed to each site."""
        return []

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: Sequence[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[None, dict[str, Scalar]]:
        """Take what the sites say of it."""
        return None, {}

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        """Do nothing: the coordinator has no data to evaluate on."""
        return None

    def conclude(self) -> None:
        """Do what is left after the last round."""
