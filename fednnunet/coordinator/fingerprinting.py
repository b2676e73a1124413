"""FFE, federated fingerprint extraction: one fingerprint and, where they are asked for, one set of plans."""

import numpy as np
from flwr.common import FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.coordinator.asking import ask_all
from fednnunet.coordinator.installing import install
from fednnunet.coordinator.planner import FederationPlanner
from fednnunet.coordinator.preflight import check_dimensions
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.rounds import Failures, RoundStrategy, RunRounds, by_site, fit_instruction, site_failures
from fednnunet.coordinator.site import Site, blamed_on
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import EventSink, FingerprintFound, StageStarted
from fednnunet.events.sinks import tell_progress
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.plans import fingerprint_digest, plans_digest
from fednnunet.fingerprint.plausibility import AnswersOfSite, check_cases
from fednnunet.fingerprint.protocol import Protocol, exact_fingerprint, shared_cases_fingerprint, sum_of_answers
from fednnunet.fingerprint.questions import COUNT_BYTES, COUNTS
from fednnunet.fingerprint.sampling import samples_per_case
from fednnunet.protocol.conversation import TRAIN, Answer, Question
from fednnunet.protocol.messages import (
    CommonPlans,
    FederationRecord,
    Measure,
    Measured,
    Query,
    SharedCases,
    Task,
)
from fednnunet.security.identity import SiteList

_MOST_QUESTIONS = 41
"""See `fednnunet.fingerprint.due`."""


class FingerprintStrategy(RoundStrategy):
    """Aggregates the sites' answers into the common fingerprint.

    Each round is one question of the protocol; the answers are one vector of integers each, and only their sum is used.

    Parameters
    ----------
    protocol
        Asks the questions.
    registry
        The sites.
    answers
        What is known of each site's answers, by its name.

    Attributes
    ----------
    questions
        How many were asked.
    answered_bytes
        Bytes of all answers, by site.
    fingerprint
        The result; ``None`` until the last question is answered.
    """

    def __init__(self, protocol: Protocol, registry: ClientRegistry, answers: dict[str, AnswersOfSite]) -> None:
        self.questions = 0
        self.answered_bytes = dict.fromkeys(answers, 0)
        self.fingerprint: Fingerprint | None = None
        self._protocol = protocol
        self._registry = registry
        self._answers = answers
        self._query = Query(question=next(protocol))

    @property
    def next_round(self) -> int | None:
        """One round for each question; how many there are depends on the answers."""
        return self.questions + 1 if self.fingerprint is None else None

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Ask every site the question that is due."""
        self.questions = server_round
        return [(site, fit_instruction(Question.of(TRAIN, self._query))) for site in self._registry.sites]

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: Failures
    ) -> tuple[None, dict[str, Scalar]]:
        """Add up the answers, and let the protocol continue with their sum.

        Raises
        ------
        SiteFailure
            If a site has failed, or its answer cannot be true.
        """
        for failure in site_failures(failures):
            raise failure
        answers = [self._checked(site, Answer.from_config(told)) for site, told in by_site(results).items()]
        try:
            self._query = Query(question=self._protocol.send(sum_of_answers(answers)))
        except StopIteration as end:
            self.fingerprint = end.value
        return None, {}

    def _checked(self, site: Site, answer: Answer) -> np.ndarray:
        """Return what a site has answered, if that can be true."""
        if len(answer.data) % COUNT_BYTES:
            raise SiteFailure(site.name, "its answer is not one vector of int64")
        self.answered_bytes[site.name] += len(answer.data)
        counts = np.frombuffer(answer.data, COUNTS)
        with blamed_on(site):
            self._answers[site.name].check(self._query.question, counts)
        return counts


def find_fingerprint(
    task: Task,
    registry: ClientRegistry,
    sink: EventSink,
    run_rounds: RunRounds,
    listed: SiteList | None = None,
    run_id: str = "",
) -> None:
    """Find the common fingerprint, plan for the whole federation, and let every site install the result.

    Parameters
    ----------
    task
        ``extract_fingerprint``, or ``plan_and_preprocess``, which adds plans and preprocessing.
    registry
        The sites.
    sink
        Takes what happens.
    run_rounds
        Does the rounds, one for each question.

    Raises
    ------
    FednnUNetError
        If a site fails, or there is no common fingerprint.
    """
    hellos = registry.hellos
    cases = sum(hello.cases for hello in hellos)
    planner = FederationPlanner(hellos[0], cases)
    strategy = _measured(registry, planner, cases, sink)
    run_rounds(strategy, _MOST_QUESTIONS)
    if strategy.fingerprint is None:
        raise FednnUNetError(f"The common fingerprint is still undetermined after {_MOST_QUESTIONS} questions.")
    sink.emit(FingerprintFound(questions=strategy.questions, answered_bytes=strategy.answered_bytes))
    fingerprint = strategy.fingerprint.to_nnunet()
    common = CommonPlans(fingerprint=fingerprint)
    if task == "plan_and_preprocess":
        sink.emit(StageStarted(stage="planning"))
        plans = planner.plans(strategy.fingerprint)
        record = FederationRecord(
            method="FFE",
            sites=[hello.site for hello in hellos],
            cases=cases,
            plans_digest=plans_digest(plans),
            # one with the real cases is for the sites only, and gets into no model that is handed on
            fingerprint_digest=None if hellos[0].fingerprint == "shared-cases" else fingerprint_digest(fingerprint),
            versions=hellos[0].versions,
        )
        common = common.model_copy(update={"plans": plans, "record": record})
    install(common, registry, sink)


def _measured(registry: ClientRegistry, planner: FederationPlanner, cases: int, sink: EventSink) -> FingerprintStrategy:
    """Let every site measure its cases, and return what asks about them."""
    sites, facts, samples = registry.sites, registry.hellos[0], samples_per_case(cases)
    channels = len(facts.channels)
    sink.emit(StageStarted(stage="reading"))
    measured = ask_all(sites, "measure", Measure(cases=cases), Measured, tell_progress(sink))
    check_dimensions({site: bool(report.is_two_dimensional) for site, report in measured.items()})
    sink.emit(StageStarted(stage="fingerprint"))
    if facts.fingerprint == "shared-cases":
        shared = ask_all(sites, "cases", None, SharedCases)
        checked = [_checked(site, shared[site.name]) for site in sites]
        spacings, shapes = (np.concatenate(parts) for parts in zip(*checked, strict=True))
        protocol = shared_cases_fingerprint(spacings, shapes, channels, samples)
    else:
        protocol = exact_fingerprint(cases, channels, samples, planner.target_spacing)
    answers = {site.name: AnswersOfSite(site.hello.cases, channels, samples) for site in sites}
    return FingerprintStrategy(protocol, registry, answers)


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
