"""What every node does: introduce itself, answer questions, report failures, take leave."""

import argparse
import logging
from collections.abc import Callable
from typing import TypeVar

from flwr.client import NumPyClient
from flwr.common import NDArrays, Scalar

from fednnunet.channel.messages import Farewell, Hello
from fednnunet.errors import FednnUNetError
from fednnunet.message import Message
from fednnunet.node.dataset import SiteDataset

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Answer = Callable[[str], Message]
"""Answers one kind of question; takes the question's JSON body."""
DataAnswer = Callable[[str, bytes], tuple[Message, bytes]]
"""Answers a question that, or whose answer, is accompanied by bytes."""


class SiteClient(NumPyClient):
    """A node. Whatever goes wrong in an answer travels to the coordinator as this site's failure.

    Questions come as Flower's ``get_properties`` with ``{"ask": KIND, "body": JSON}``; answers, metrics of ``fit`` and
    metrics of ``evaluate`` are ``{"body": JSON}``, or ``{"failure": TEXT}``. Either may have
    ``"data": BYTES`` beside it.

    Parameters
    ----------
    arguments
        Command line of the client.
    dataset
        The site's dataset.
    hello
        How the site introduces itself.
    """

    def __init__(self, arguments: argparse.Namespace, dataset: SiteDataset, hello: Hello) -> None:
        self.arguments = arguments
        self.dataset = dataset
        self.hello = hello
        self.farewell: Farewell | None = None
        self.failure: str | None = None
        self._answers: dict[str, DataAnswer] = {}
        self.answer("hello", lambda _: hello)
        self.answer("farewell", self._take_leave)

    def answer(self, kind: str, answer: Answer) -> None:
        """Declare how this node answers questions of a kind."""
        self.answer_with_data(kind, lambda body, _: (answer(body), b""))

    def answer_with_data(self, kind: str, answer: DataAnswer) -> None:
        """Declare how this node answers questions of a kind that bytes accompany."""
        self._answers[kind] = answer

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """Answer a question of the coordinator (Flower's entry point)."""

        def respond() -> dict[str, Scalar]:
            kind = str(config.get("ask"))
            if kind not in self._answers:
                raise FednnUNetError(
                    f"the coordinator asks for '{kind}', which a node for {self.hello.task} does not answer"
                )
            data = config.get("data", b"")
            message, reply = self._answers[kind](
                str(config.get("body", "{}")), data if isinstance(data, bytes) else b""
            )
            properties: dict[str, Scalar] = {"body": message.to_json()}
            return properties | ({"data": reply} if reply else {})

        return self._or_failure(respond, lambda failure: failure)

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Do a round's work (Flower's entry point); see `work`."""

        def respond() -> tuple[NDArrays, int, dict[str, Scalar]]:
            arrays, weight = self.work(parameters, config)
            return arrays, weight, {}

        return self._or_failure(respond, lambda failure: ([], 0, failure))

    def evaluate(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[float, int, dict[str, Scalar]]:
        """Take what the coordinator made of the round's work (Flower's entry point); see `receive`."""

        def respond() -> tuple[float, int, dict[str, Scalar]]:
            return 0.0, 1, {"body": self.receive(parameters, config).to_json()}

        return self._or_failure(respond, lambda failure: (0.0, 0, failure))

    def work(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int]:
        """Return the arrays that leave the site in this round, and the site's weight in cases."""
        raise NotImplementedError

    def receive(self, parameters: NDArrays, config: dict[str, Scalar]) -> Message:
        """Take the round's common result and say what came of it here."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the node holds; called once, however the federation ends."""

    def _take_leave(self, body: str) -> Farewell:
        self.farewell = Farewell.from_json(body)
        return self.farewell

    def _or_failure(self, respond: Callable[[], Result], as_result: Callable[[dict[str, Scalar]], Result]) -> Result:
        try:
            return respond()
        except FednnUNetError as error:
            self.failure, told = str(error), error.shareable
        except Exception as error:  # its message may hold anything, the name of a case for example
            logger.exception("This site failed")
            self.failure = f"{type(error).__name__}: {error}"
            reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
            told = f"{type(error).__name__}{reason}, see the node's own output"
        return as_result({"failure": told})
