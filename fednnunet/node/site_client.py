"""The base of all nodes: introduces itself, answers questions, reports failures, disconnects."""

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flwr.client import NumPyClient
from flwr.common import NDArrays, Scalar

from fednnunet.background import Submits, Tracker
from fednnunet.errors import FednnUNetError, disk_problem
from fednnunet.node.case_names import without_cases
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.replies import Replies, StillWorking
from fednnunet.privacy.paths import without_paths
from fednnunet.protocol.conversation import FAREWELL, HELLO, NO_BODY, NO_CERTIFICATE, PING, Answer, Answers, Question
from fednnunet.protocol.messages import Farewell, Hello, WorkReport
from fednnunet.schema import Message
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.security.identity import Challenge, Identity
from fednnunet.settings.node import NodeSettings

logger = logging.getLogger(__name__)

AnyMessage = TypeVar("AnyMessage", bound=Message)

_STOP_WITHIN_SECONDS = 10.0


@dataclass(frozen=True)
class Work:
    """A question that is being answered.

    Attributes
    ----------
    question
        What was asked.
    tracker
        Takes how far the answer is, and says when it shall be given up.
    """

    question: Question
    tracker: Tracker

    def read(self, message: type[AnyMessage]) -> AnyMessage:
        """Return the body of the question; see `Question.read`."""
        return self.question.read(message)


class SiteClient(NumPyClient):
    """A node. Whatever goes wrong in an answer travels to the coordinator as this site's failure.

    Flower's adapter (``to_client``) calls `get_properties`, `fit` and `evaluate`, each of which hands its question to
    the gate, and this to the node's `answer`.

    Parameters
    ----------
    arguments
        The node's settings.
    dataset
        The site's dataset.
    hello
        How the site introduces itself.
    worker
        Works out the answers; one thread of the node's own if not given.
    identity
        The site's key, if it has one.
    rules
        What it wants of masked sums, if answers about cases, and updates, leave as terms of these only.

    Attributes
    ----------
    gate
        What questions and answers pass; nothing but the node itself until it is set.
    certificate
        SHA-256 of the certificate that the current connection has shown.
    """

    def __init__(
        self,
        arguments: NodeSettings,
        dataset: SiteDataset,
        hello: Hello,
        worker: Submits | None = None,
        *,
        identity: Identity | None = None,
        rules: Rules | None = None,
    ) -> None:
        self._identity = identity
        self._rules = rules
        self._run = ""
        """Names the run of the coordinator, as its last challenge says."""
        self.arguments = arguments
        self.dataset = dataset
        self.hello = hello if rules is None else hello.model_copy(update=_told_by(rules))
        self.gate: Answers = self
        self.certificate = NO_CERTIFICATE
        self.farewell: Farewell | None = None
        self.failure: str | None = None
        self.changed_cases: int | None = None
        """Cases that were added or removed since the site told sums over the others, if it has told any."""
        self.replies: Replies[Answer] = Replies(worker)

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """Answer a question (Flower's entry point)."""
        return self.gate.answer(Question.from_config(config, self.certificate)).to_config()

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Do a round's work (Flower's entry point); what comes of it are the metrics, or is fetched part by part."""
        return [], self.hello.cases, self.get_properties(config)

    def evaluate(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[float, int, dict[str, Scalar]]:
        """Validate a round's result (Flower's entry point); what the site tells of it are the metrics."""
        return 0.0, self.hello.cases, self.get_properties(config)

    @property
    def has_left(self) -> bool:
        """Whether there is no reason to be connected any more."""
        return self.farewell is not None or self.failure is not None

    @property
    def answers(self) -> Mapping[str, Callable[[Work], Answer]]:
        """What works out the answers to this node's questions, by their kind."""
        return {}

    def answer(self, question: Question) -> Answer:
        """Answer a question that has passed the gate, or say how far the answer is."""
        try:
            at_once = self.answer_at_once(question)
            if at_once is not None:
                return at_once
            return self.replies.reply(
                question.key or uuid.uuid4().hex, lambda tracker: self._work_out(question, tracker)
            )
        except StillWorking as working:
            return Answer(pending=WorkReport(done=working.tracker.done, total=working.tracker.total))
        except FednnUNetError as error:
            self.failure = str(error)
            told = without_cases(without_paths(error.shareable), self.dataset)  # in this order: paths are looked up
        except Exception as error:  # its message may hold anything, the name of a case for example
            self.failure, told = self._unexpected(error)
        return Answer(failure=told)

    def answer_at_once(self, question: Question) -> Answer | None:
        """Return the answer to a question that must not disturb what is going on, ``None`` if it may."""
        if question.kind == PING:
            return Answer(NO_BODY)
        if question.kind == HELLO:
            return self._introduce(question)
        return self._take_leave(question) if question.kind == FAREWELL else None

    def tells_of_cases(self) -> None:
        """Take note that sums over the cases, or a list of them, are about to leave the site."""

    def close(self) -> None:
        """Give up work that is going on, and free what the node holds; called once, however the federation ends."""
        self.replies.stop(_STOP_WITHIN_SECONDS)

    def _work_out(self, question: Question, tracker: Tracker) -> Answer:
        if question.kind not in self.answers:
            raise FednnUNetError(
                f"the coordinator asks for '{question.kind}', which a node for {self.hello.task} does not answer"
            )
        return self.answers[question.kind](Work(question, tracker))

    def _introduce(self, question: Question) -> Answer:
        """Say who this is, and prove it if there is a key."""
        try:
            challenge = question.read(Challenge)
        except FednnUNetError as error:  # no reason to leave
            return Answer(failure=str(error))
        self._run = challenge.run
        introduction, identity = self.hello.to_json(), self._identity
        proof = b"" if identity is None else identity.prove(challenge, question.certificate, introduction)
        return Answer(introduction, proof)

    def _take_leave(self, question: Question) -> Answer:
        try:
            self.farewell = question.read(Farewell)
        except FednnUNetError as error:  # whatever was meant, the coordinator does not need this node any more
            self.farewell = Farewell(error="its last word was malformed")
            return Answer(failure=str(error))
        return Answer(question.body)

    def _unexpected(self, error: Exception) -> tuple[str, str]:
        """Return what is said here of an error that is not our own, and what the coordinator is told of it."""
        full = disk_problem(error)
        if full is not None:
            which = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
            what = f"cannot be written: {full}. Fix that, and restart the node"
            return f"A file{which} {what}.", f"a file {what}"
        if isinstance(error, FileNotFoundError) and error.filename:
            what = "no longer exists. Restore it, and restart the node"
            return f"A file ({error.filename}) {what}.", f"a file {what}"
        if self.failure is None:
            logger.exception("This site failed")
        reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        return f"{type(error).__name__}: {error}", f"{type(error).__name__}{reason}, see the node's own output"


def _told_by(rules: Rules) -> dict[str, object]:
    """Return what a site says of its rules in its introduction."""
    return {"sites_digest": rules.sites.digest, "hides_figures": rules.figures is not None}
