"""What every node does: introduce itself, answer questions, report failures, take leave."""

import argparse
import contextlib
import logging
import uuid
from collections.abc import Callable
from typing import TypeVar

from flwr.client import NumPyClient
from flwr.common import NDArrays, Scalar

from fednnunet.background import Replies, StillWorking, Submits, Tracker
from fednnunet.channel.identity import Challenge
from fednnunet.channel.messages import Farewell, Hello, WorkReport
from fednnunet.channel.paths import without_paths
from fednnunet.channel.question import identity
from fednnunet.errors import FednnUNetError, disk_problem
from fednnunet.message import Message
from fednnunet.node.case_names import without_cases
from fednnunet.node.dataset import SiteDataset

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Answer = Callable[[str, Tracker], Message]
"""Answers one kind of question; takes the question's JSON body, and tells how far it is."""
DataAnswer = Callable[[str, bytes], tuple[Message, bytes]]
"""Answers a question that, or whose answer, is accompanied by bytes."""
_Reply = tuple[NDArrays, int, dict[str, Scalar]]

_STOP_WITHIN_SECONDS = 10.0


class SiteClient(NumPyClient):
    """A node. Whatever goes wrong in an answer travels to the coordinator as this site's failure.

    Questions come as Flower's ``get_properties`` with ``{"ask": KIND, "body": JSON, "id": TEXT}``, or as ``fit`` and
    ``evaluate`` with ``{"body": JSON, "id": TEXT}``; answers, or the metrics of ``fit`` and ``evaluate``, are
    ``{"body": JSON}``, ``{"pending": JSON}`` if the same question shall be asked again, or ``{"failure": TEXT}``. A
    question or an answer may have ``"data": BYTES`` beside it.

    Parameters
    ----------
    arguments
        Command line of the client.
    dataset
        The site's dataset.
    hello
        How the site introduces itself.
    worker
        Works out the answers; one thread of the node's own if not given.
    """

    def __init__(
        self, arguments: argparse.Namespace, dataset: SiteDataset, hello: Hello, worker: Submits | None = None
    ) -> None:
        self.arguments = arguments
        self.dataset = dataset
        self.hello = hello
        self.farewell: Farewell | None = None
        self.failure: str | None = None
        self.changed_cases: int | None = None
        """Cases that were added or removed since the site told sums over the others, if it has told any."""
        self._answers: dict[str, Callable[[str, bytes, Tracker], tuple[Message, bytes]]] = {}
        self.replies: Replies[_Reply] = Replies(worker)

    @property
    def has_left(self) -> bool:
        """Whether there is no reason to be connected any more."""
        return self.farewell is not None or self.failure is not None

    def answer(self, kind: str, answer: Answer) -> None:
        """Declare how this node answers questions of a kind."""
        self._answers[kind] = lambda body, _, tracker: (answer(body, tracker), b"")

    def answer_with_data(self, kind: str, answer: DataAnswer) -> None:
        """Declare how this node answers questions of a kind that bytes accompany."""
        self._answers[kind] = lambda body, data, _: answer(body, data)

    def answer_at_once(self, kind: str, body: str) -> Message | None:
        """Return the answer to a question that must not disturb what is going on, ``None`` if it may."""
        return None

    def tells_of_cases(self) -> None:
        """Take note that sums over the cases, or a list of them, are about to leave the site."""

    def introduce(self, challenge: Challenge, certificate: bytes) -> dict[str, Scalar]:
        """Say who this is, and prove it if there is a key: ``{"body": JSON, "data": PROOF}``."""
        introduction = self.hello.to_json()
        identity = self.arguments.identity
        proof = {} if identity is None else {"data": identity.prove(challenge, certificate, introduction)}
        return {"body": introduction, **proof}

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """Answer a question of the coordinator (Flower's entry point)."""
        kind, body, data = str(config.get("ask")), str(config.get("body", "{}")), config.get("data", b"")
        if kind == "ping":  # these two at once, whatever else is going on
            return {"body": "{}"}
        if kind == "farewell":
            return self._take_leave(body)
        with contextlib.suppress(FednnUNetError):  # a body that is no message is refused below
            at_once = self.answer_at_once(kind, body)
            if at_once is not None:
                return {"body": at_once.to_json()}

        def answer(tracker: Tracker) -> _Reply:
            if kind not in self._answers:
                raise FednnUNetError(
                    f"the coordinator asks for '{kind}', which a node for {self.hello.task} does not answer"
                )
            message, reply = self._answers[kind](body, data if isinstance(data, bytes) else b"", tracker)
            properties: dict[str, Scalar] = {"body": message.to_json()}
            return [], 0, properties | ({"data": reply} if reply else {})

        return self._reply(kind, config, answer)[2]

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Do a round's work (Flower's entry point); see `work`."""

        def answer(tracker: Tracker) -> _Reply:
            arrays, weight = self.work(str(config.get("body", "{}")), tracker)
            return arrays, weight, {}

        return self._reply("fit", config, answer)

    def evaluate(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[float, int, dict[str, Scalar]]:
        """Take what the coordinator made of the round's work (Flower's entry point); see `receive`."""

        def answer(tracker: Tracker) -> _Reply:
            return [], 1, {"body": self.receive(str(config.get("body", "{}")), tracker).to_json()}

        _, weight, metrics = self._reply("evaluate", config, answer)
        return 0.0, weight, metrics

    def work(self, body: str, tracker: Tracker) -> tuple[NDArrays, int]:
        """Return the arrays that leave the site in this round, and the site's weight in cases."""
        raise NotImplementedError

    def receive(self, body: str, tracker: Tracker) -> Message:
        """Take the round's common result and say what came of it here."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up work that is going on, and free what the node holds; called once, however the federation ends."""
        self.replies.stop(_STOP_WITHIN_SECONDS)

    def _take_leave(self, body: str) -> dict[str, Scalar]:
        try:
            self.farewell = Farewell.from_json(body)
        except FednnUNetError as error:  # whatever was meant, the coordinator does not need this node any more
            self.farewell = Farewell(error="its last word was malformed")
            return {"failure": str(error)}
        return {"body": body}

    def _reply(self, kind: str, config: dict[str, Scalar], answer: Callable[[Tracker], _Reply]) -> _Reply:
        try:
            return self.replies.reply(identity(kind, config) or uuid.uuid4().hex, answer)
        except StillWorking as working:
            report = WorkReport(done=working.tracker.done, total=working.tracker.total)
            return [], 0, {"pending": report.to_json()}
        except FednnUNetError as error:
            self.failure = str(error)
            told = without_cases(without_paths(error.shareable), self.dataset)  # in this order: paths are looked up
        except Exception as error:  # its message may hold anything, the name of a case for example
            self.failure, told = self._unexpected(error)
        return [], 0, {"failure": told}

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
