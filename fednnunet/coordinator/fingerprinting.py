"""FFE, federated fingerprint extraction: one fingerprint and, where they are asked for, one set of plans."""

from typing import Any

from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.messages import CommonPlans, Installed, Task
from fednnunet.coordinator.planning import make_plans
from fednnunet.coordinator.roster import Roster, site_name
from fednnunet.coordinator.stage import NOTHING, Stage
from fednnunet.errors import SiteFailure
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.merge import merge
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.report.events import EventSink, StageStarted


class FingerprintStage(Stage):
    """Merges the sites' fingerprints, plans for the whole federation, and lets every site install the result.

    Parameters
    ----------
    task
        ``extract_fingerprint``, or ``plan_and_preprocess``, which adds plans and preprocessing.
    roster
        The sites.
    sink
        Takes what happens.
    """

    title = "fingerprint"

    def __init__(self, task: Task, roster: Roster, sink: EventSink) -> None:
        self._task = task
        self._roster = roster
        self._sink = sink
        self._plans: dict[str, Any] | None = None

    @property
    def rounds(self) -> range:
        """One round: fingerprints up, the common one down."""
        return range(1, 2)

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Return nothing: sites start from their own data."""
        return NOTHING

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Ask every site for its fingerprint."""
        self._sink.emit(StageStarted(title="local fingerprints"))
        return [(proxy, FitIns(NOTHING, {})) for proxy in self._roster.sites]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters, dict[str, Scalar]]:
        """Merge the sites' fingerprints, and plan."""
        common = merge([Fingerprint.from_arrays(parameters_to_ndarrays(result.parameters)) for _, result in results])
        if self._task == "plan_and_preprocess":
            self._sink.emit(StageStarted(title="common plans"))
            self._plans = make_plans(common, self._roster.hellos)
        return ndarrays_to_parameters(common.to_arrays()), {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Hand the common fingerprint and plans to every site."""
        self._sink.emit(StageStarted(title="installing" if self._plans is None else "preprocessing"))
        body = CommonPlans(plans=self._plans).to_json()
        return [(proxy, EvaluateIns(parameters, {"body": body})) for proxy in self._roster.sites]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[None, dict[str, Scalar]]:
        """Check that every site has installed what it was sent."""
        expected = None if self._plans is None else plans_digest(self._plans)
        for proxy, result in results:
            installed = Installed.from_json(str(result.metrics["body"]))
            if installed.plans_digest != expected:
                raise SiteFailure(site_name(proxy), "it has installed other plans than the common ones")
        return None, {}

    def conclude(self) -> None:
        """Do nothing more."""
