"""Rounds, as Flower drives them: its ``Server`` calls the hooks of its ``Strategy``."""

import time
from collections.abc import Callable, Sequence

from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server import Server
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.history import History
from flwr.server.strategy import Strategy

from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.site import Site
from fednnunet.errors import SiteFailure
from fednnunet.protocol.conversation import Config, Question
from fednnunet.transport.connection import NO_PARAMETERS

Failures = Sequence[tuple[ClientProxy, FitRes] | tuple[ClientProxy, EvaluateRes] | BaseException]
"""Flower's type; `Site` raises what goes wrong, as a `SiteFailure`."""


class RoundStrategy(Strategy):
    """A strategy that knows which round is next.

    Subclasses define ``configure_fit`` and ``aggregate_fit``; those who validate, ``configure_evaluate`` and
    ``aggregate_evaluate``. Weights travel part by part, so no `Parameters` are passed from hook to hook.
    """

    @property
    def next_round(self) -> int | None:
        """Number of the next round, from 1, or of the same one again; ``None`` when there is none."""
        raise NotImplementedError

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Return nothing: sites have agreed on the first model before."""
        return NO_PARAMETERS

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Let nobody validate."""
        return []

    def aggregate_evaluate(
        self, server_round: int, results: list[tuple[ClientProxy, EvaluateRes]], failures: Failures
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Take no validation."""
        return None, {}

    def evaluate(self, server_round: int, parameters: Parameters) -> None:
        """Do nothing: the coordinator has no data to evaluate on."""


class RoundServer(Server):
    """Flower's server, for rounds that can be repeated for want of a quorum, and resumed in the middle of a training.

    Parameters
    ----------
    registry
        The sites.
    strategy
        What sites do in a round, and what becomes of it.
    on_round
        Is told after each round.
    """

    strategy: RoundStrategy

    def __init__(self, registry: ClientRegistry, strategy: RoundStrategy, on_round: Callable[[], None]) -> None:
        super().__init__(client_manager=registry, strategy=strategy)
        self.set_max_workers(max(1, registry.places))  # all sites work at the same time
        self._registry = registry
        self._on_round = on_round

    def fit(self, num_rounds: int, timeout: float | None) -> tuple[History, float]:
        """Do the rounds that are left of `num_rounds`.

        Parameters
        ----------
        num_rounds
            Number of the last round.
        timeout
            Seconds that a site has for each of the steps between which sites do not wait for each other.

        Returns
        -------
        The mean validation loss of each round, and the seconds that all took.
        """
        history, began = History(), time.monotonic()
        while (number := self.strategy.next_round) is not None and number <= num_rounds:
            self._registry.allow(timeout)
            self.fit_round(number, timeout)
            evaluated = self.evaluate_round(number, timeout)
            if evaluated is not None and evaluated[0] is not None:
                history.add_loss_distributed(number, evaluated[0])
            self._on_round()
        self._registry.allow(timeout)
        return history, time.monotonic() - began


RunRounds = Callable[[RoundStrategy, int], object]
"""Does all rounds of a strategy up to the one of this number."""


def fit_instruction(question: Question) -> FitIns:
    """Return a question as Flower's instruction to train."""
    return FitIns(NO_PARAMETERS, question.to_config())


def evaluate_instruction(question: Question) -> EvaluateIns:
    """Return a question as Flower's instruction to validate."""
    return EvaluateIns(NO_PARAMETERS, question.to_config())


def site_failures(failures: Failures) -> list[SiteFailure]:
    """Return what went wrong, in the order of the sites' names."""
    of_sites = [failure for failure in failures if isinstance(failure, SiteFailure)]
    return sorted(of_sites, key=lambda failure: failure.site)


def by_site(results: Sequence[tuple[ClientProxy, FitRes | EvaluateRes]]) -> dict[Site, Config]:
    """Return the metrics of results by site, in the order of the sites' names, whoever was fastest."""
    metrics = [(site, result.metrics) for site, result in results if isinstance(site, Site)]
    return dict(sorted(metrics, key=lambda pair: pair[0].name))
