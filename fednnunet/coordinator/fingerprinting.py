"""FFE, federated fingerprint extraction: one fingerprint and, where they are asked for, one set of plans."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from flwr.common import FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.messages import (
    CommonPlans,
    FederationRecord,
    Measure,
    Measured,
    Query,
    SharedCases,
    Task,
)
from fednnunet.coordinator.installing import install
from fednnunet.coordinator.planner import FederationPlanner
from fednnunet.coordinator.preflight import check_dimensions
from fednnunet.coordinator.roster import Roster, ask_all
from fednnunet.coordinator.site import Site
from fednnunet.coordinator.stage import NOTHING, Stage
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.plans import fingerprint_digest, plans_digest
from fednnunet.fingerprint.plausibility import AnswersOfSite, check_cases
from fednnunet.fingerprint.protocol import Protocol, exact_fingerprint, shared_cases_fingerprint, sum_of_answers
from fednnunet.fingerprint.sampling import samples_per_case
from fednnunet.report.events import EventSink, FingerprintFound, StageStarted, tell_progress


class FingerprintStage(Stage):
    """Finds the common fingerprint, plans for the whole federation, and lets every site install the result.

    Each round is one question of the protocol: the question goes down with ``fit``, the answers come up as one vector
    of integers each, and only their sum is used.

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
        self._cases = sum(hello.cases for hello in roster.hellos)
        self._planner = FederationPlanner(roster.hellos[0], self._cases)
        self._protocol: Protocol
        self._query: Query | None = None
        self._fingerprint: Fingerprint | None = None
        self._answered_bytes: dict[str, int] = {}
        self._questions = 0
        self._answers: dict[str, AnswersOfSite] = {}

    @property
    def rounds(self) -> Iterator[int]:
        """One round for each question; how many there are depends on the answers."""
        while self._query is not None:
            self._questions += 1
            yield self._questions

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Let every site measure its cases, and prepare the first question."""
        sites, facts = self._roster.sites, self._roster.hellos[0]
        self._sink.emit(StageStarted(title="reading images"))
        samples = samples_per_case(self._cases)
        measured = ask_all(sites, "measure", Measure(cases=self._cases), Measured, tell_progress(self._sink))
        check_dimensions({site: bool(report.is_two_dimensional) for site, report in measured.items()})
        self._sink.emit(StageStarted(title="common fingerprint"))
        if facts.fingerprint == "shared-cases":
            shared = ask_all(sites, "cases", None, SharedCases)
            checked = [_checked(site, shared[site.name]) for site in sites]
            spacings, shapes = (np.concatenate(parts) for parts in zip(*checked, strict=True))
            self._protocol = shared_cases_fingerprint(spacings, shapes, len(facts.channels), samples)
        else:
            self._protocol = exact_fingerprint(self._cases, len(facts.channels), samples, self._planner.target_spacing)
        self._answers = {site.name: AnswersOfSite(site.hello.cases, len(facts.channels), samples) for site in sites}
        self._query = Query(question=next(self._protocol))
        return NOTHING

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Ask every site the question that is due."""
        assert self._query is not None, "a round without a question"
        question: dict[str, Scalar] = {"body": self._query.to_json()}
        return [(proxy, FitIns(NOTHING, question)) for proxy in self._roster.sites]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: Sequence[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters, dict[str, Scalar]]:
        """Add up the answers, and let the protocol go on from their sum."""
        for proxy, result in results:
            size = sum(len(tensor) for tensor in result.parameters.tensors)
            self._answered_bytes[_name(proxy)] = self._answered_bytes.get(_name(proxy), 0) + size
        total = sum_of_answers([self._answer(_name(proxy), result.parameters) for proxy, result in results])
        try:
            self._query = Query(question=self._protocol.send(total))
        except StopIteration as end:
            self._query, self._fingerprint = None, end.value
        return NOTHING, {}

    def _answer(self, site: str, parameters: Parameters) -> np.ndarray:
        """Return what a site has answered, if that can be true."""
        assert self._query is not None, "an answer without a question"
        answer = _vector(site, parameters)
        try:
            self._answers[site].check(self._query.question, answer)
        except FednnUNetError as error:
            raise SiteFailure(site, str(error)) from error
        return answer

    def conclude(self) -> None:
        """Plan, hand fingerprint and plans to every site, and let it preprocess."""
        assert self._fingerprint is not None, "the protocol has not ended"
        self._sink.emit(FingerprintFound(questions=self._questions, answered_bytes=self._answered_bytes))
        fingerprint = self._fingerprint.to_nnunet()
        common = CommonPlans(fingerprint=fingerprint)
        if self._task == "plan_and_preprocess":
            self._sink.emit(StageStarted(title="common plans"))
            plans = self._planner.plans(self._fingerprint)
            facts = self._roster.hellos[0]
            record = FederationRecord(
                method="FFE",
                sites=[hello.site for hello in self._roster.hellos],
                cases=self._cases,
                plans_digest=plans_digest(plans),
                # one with the real cases is for the sites only, and gets into no model that is handed on
                fingerprint_digest=None if facts.fingerprint == "shared-cases" else fingerprint_digest(fingerprint),
                versions=facts.versions,
            )
            common = common.model_copy(update={"plans": plans, "record": record})
        install(common, self._roster, self._sink)


def _name(proxy: ClientProxy) -> str:
    return str(proxy.properties["site"])


def _checked(site: Site, shared: SharedCases) -> tuple[np.ndarray, np.ndarray]:
    """Return spacings and shapes of a site's cases, if these can be true."""
    spacings, shapes = np.array(shared.spacings, np.float64), np.array(shared.shapes, np.int64)
    if len(shapes) != site.hello.cases:
        raise SiteFailure(site.name, f"it reports a number of cases other than its {site.hello.cases}")
    try:
        check_cases(spacings, shapes)
    except FednnUNetError as error:
        raise SiteFailure(site.name, str(error)) from error
    return spacings, shapes


def _vector(site: str, parameters: Parameters) -> np.ndarray:
    """Return the vector that a site has answered; its length is checked before memory is taken for it."""
    tensors = parameters.tensors
    try:
        file = io.BytesIO(tensors[0] if len(tensors) == 1 else b"")
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        rest = file.read()
        if len(shape) != 1 or dtype != np.int64 or len(rest) != 8 * shape[0]:
            raise ValueError
    except ValueError:
        raise SiteFailure(site, "its answer is not one vector of int64") from None
    return np.frombuffer(rest, np.int64)
