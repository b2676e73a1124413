"""A whole training with nodes that live in this process, some of which do what no honest node does."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from flwr.common import DisconnectRes, EvaluateIns, EvaluateRes, FitIns, FitRes, ReconnectIns, Scalar

from fednnunet.cli.arguments import parse_server
from fednnunet.coordinator.federation import Federation
from fednnunet.events.events import Event, RoundCompleted, SiteLeftOut
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.protocol.messages import (
    Farewell,
    Gain,
    GainReport,
    Hello,
    OwnTrained,
    OwnTraining,
    Ready,
    RoundReport,
    RoundRequest,
    Start,
    TrainingOffer,
    ValidationReport,
    WorkReport,
)
from fednnunet.security.authentication import Authenticator
from fednnunet.transport.connection import NO_PARAMETERS
from fednnunet.weights.layout import Layout, TensorSpec
from tests.coordinator.fake_node import OK
from tests.coordinator.test_exchange import Holder

LAYOUT = Layout((TensorSpec("stem", (4, 5), "float32"), TensorSpec("head", (3,), "float32")))
PENDING = WorkReport(done=0, total=1).to_json()
FLAGS = ("--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1", "--encoding", "float32")


class Trainer(Holder):
    """An honest site: what it learns in a round adds `step` to the model.

    Attributes
    ----------
    instead
        What is answered instead, by kind of question, given the honest answer.
    """

    def __init__(self, site: str, step: float = 1.0, cases: int = 5, **instead: Callable[[str], dict[str, Scalar]]):
        super().__init__(site, LAYOUT, 0.0)
        self.hello = Hello(
            site=site,
            instance=f"{site} {id(self)}",
            task="train",
            method="FFE",
            fold="0",
            cases=cases,
            versions={"nnunetv2": "2.8.1"},
            labels={"background": 0, "x": 1},
            channels={"0": "CT"},
        )
        self.step = step
        self.instead = instead
        self.report = RoundReport(train_loss=-0.5, val_loss=-0.25, mean_dice=0.5, dice={"x": 0.5})
        self.farewell: str | None = "none was said"
        self.starts: list[int] = []
        self.own_models: list[tuple[str, int]] = []
        self.gain = GainReport(labels={"x": Gain(federated=0.5), "y": Gain()}, advice="alone")
        self.asked: list[str] = []
        self.has_left = threading.Event()

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        self.asked.append(kind)
        if kind in self.instead:
            return self.instead[kind](body)
        return self.honestly(kind, body, data)

    def honestly(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        if kind == "hello":
            return {"body": self.hello.to_json()}
        if kind == "offer":
            return {"body": TrainingOffer(epochs=3, iterations_per_epoch=1, val_iterations_per_epoch=1).to_json()}
        if kind == "start":
            self.starts.append(Start.from_json(body).completed)
            ready = Ready(tensors=list(LAYOUT.tensors), training_cases=self.hello.cases, pretrained=False)
            return {"body": ready.to_json()}
        if kind == "finish":
            return {"body": ValidationReport(mean_dice=0.5, dice={"x": 0.5}).to_json()}
        if kind == "train_own":
            own = OwnTraining.from_json(body)
            self.own_models.append((own.model, own.schedule.epochs))
            return {"body": OwnTrained(epochs=own.schedule.epochs).to_json()}
        if kind == "gain":
            return {"body": self.gain.to_json()}
        if kind == "farewell":
            self.farewell = Farewell.from_json(body).error
            return {"body": body}
        if kind == "ping":
            return {"body": body}
        return super().respond(kind, body, data)

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        self.asked.append("fit")
        if "fit" in self.instead:
            return FitRes(OK, NO_PARAMETERS, 1, self.instead["fit"](str(ins.config["body"])))
        self.trained = RoundRequest.from_json(str(ins.config["body"])).round
        self.model.hold(self.model.weights + np.float32(self.step))
        return FitRes(OK, NO_PARAMETERS, 1, {})

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        self.asked.append("evaluate")
        if "evaluate" in self.instead:
            return EvaluateRes(OK, 0.0, 1, self.instead["evaluate"](str(ins.config["body"])))
        self.model.accept()
        return EvaluateRes(OK, 0.0, 1, {"body": self.report.to_json()})

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        self.has_left.set()
        self.federation.registry.unregister(self)
        return DisconnectRes("")

    def join(self, federation: Federation) -> None:
        """Connect."""
        self.federation = federation
        federation.registry.register(self)


class Diverging(Trainer):
    """An honest site whose training diverges after a round."""

    after = 2

    @property
    def step(self) -> float:
        return 1.0 if self.trained <= self.after else np.nan

    @step.setter
    def step(self, value: float) -> None:
        self.trained = 0


class Events:
    """Keeps what happens."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def emit(self, event: Event) -> None:
        self.seen.append(event)

    @property
    def rounds(self) -> list[RoundCompleted]:
        """The complete rounds."""
        return [event for event in self.seen if isinstance(event, RoundCompleted)]

    @property
    def left_out(self) -> list[SiteLeftOut]:
        """Who was left out."""
        return [event for event in self.seen if isinstance(event, SiteLeftOut)]


def run_training(run_dir: Path, nodes: list[Trainer], *flags: str, sink: Any = None) -> tuple[Federation, Events]:
    """Let `nodes` connect in order, and run the federation to its end."""
    events = Events()
    words = ["train", "0", "--num_clients", str(len(nodes)), "--run_dir", str(run_dir), *FLAGS, *flags]
    federation = Federation(parse_server(words).coordinator, sink or events, Authenticator(None, NO_CERTIFICATE))
    for node in nodes:
        node.join(federation)
    with mock.patch("fednnunet.coordinator.federation._LINGER_SECONDS", 0.0):  # for those who have been let go
        federation.run()
    return federation, events


def pending(body: str) -> dict[str, Scalar]:
    """Answer that the work goes on, whatever is asked."""
    return {"pending": PENDING}
