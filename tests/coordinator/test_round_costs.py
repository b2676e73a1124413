"""What a round has cost, against numbers that are known in advance."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Scalar

from fednnunet.coordinator.agreement import FoldContext, FoldTraining, averaging_of, other_flags, resume
from fednnunet.coordinator.exchange import Exchange
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.rounds import Failures, RoundServer
from fednnunet.coordinator.run_folder import FoldFolder, RunDescription, SharedTensors
from fednnunet.coordinator.site import SiteLate
from fednnunet.coordinator.training import FederatedAveraging
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import Event, RoundCompleted, Traffic
from fednnunet.protocol.messages import Ready, RoundReport, Schedule
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.transport.connection import NO_PARAMETERS
from fednnunet.weights.global_model import GlobalModel
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.sharing import Group
from tests.coordinator.fake_node import OK
from tests.coordinator.test_exchange import Holder, _hello

PARAMETERS = 1000
PARTS = ((0, 300), (300, 600), (600, 900), (900, 1000))
REPORT = RoundReport(train_loss=-0.5, val_loss=-0.25, mean_dice=0.5, dice={"x": 0.5}).to_json()


class Clock(threading.local):
    """A clock for each thread: what is measured within a thread does not depend on the others."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def spend(self, seconds: float) -> None:
        self.seconds += seconds


class Trainer(Holder):
    """A site that takes a known time for everything."""

    def __init__(self, site: str, layout: Layout, clock: Clock) -> None:
        super().__init__(site, layout, 0)
        self.clock = clock
        self.training = [1.0]
        self.validating = 1.0
        self.problems: list[FednnUNetError] = []

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        if kind == "start":
            return {"body": Ready(tensors=list(self.layout.tensors), training_cases=3, pretrained=False).to_json()}
        return super().respond(kind, body, data)

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        self.clock.spend(self.training.pop(0) if len(self.training) > 1 else self.training[0])
        if self.problems:
            raise self.problems.pop(0)
        self.hold(1)
        return FitRes(OK, NO_PARAMETERS, 3, {"body": "{}"})

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        self.clock.spend(self.validating)
        self.model.accept()
        return EvaluateRes(OK, 0.0, 1, {"body": REPORT})


class Slow(FederatedAveraging):
    """The coordinator itself spends 10 s while sites train, and 2 s while they validate."""

    def __init__(self, training: FoldTraining, clock: Clock) -> None:
        super().__init__(training)
        self.clock = clock

    def aggregate_fit(self, server_round: int, results: Any, failures: Failures) -> tuple[None, dict[str, Scalar]]:
        self.clock.spend(10)
        return super().aggregate_fit(server_round, results, failures)

    def aggregate_evaluate(
        self, server_round: int, results: Any, failures: Failures
    ) -> tuple[float | None, dict[str, Scalar]]:
        self.clock.spend(2)
        return super().aggregate_evaluate(server_round, results, failures)


class Training:
    """A training of five rounds that is about to begin."""

    def __init__(self, path: Path, clock: Clock, *sites: str, min_clients: int = 1) -> None:
        layout = Layout((TensorSpec("a", (PARAMETERS,), "float32"),))
        settings = CoordinatorSettings(
            task="train",
            num_clients=len(sites),
            encoding="float32",
            optimizer_state="local",
            resume=True,
        )
        self.folder = FoldFolder.of(path, 0)
        self.folder.begin(
            RunDescription(
                run="one",
                fold=0,
                sites=dict.fromkeys(sites, 1),
                plans=dict.fromkeys(sites),
                schedule=Schedule(rounds=5, local_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1),
                averaging=averaging_of(settings),
                flags=other_flags(settings),
                shared=[SharedTensors(sites=list(sites), tensors=list(layout.tensors))],
            )
        )
        self.folder.keep_model(0, Exchange([Group(sites, layout)], averaging_of(settings)).state)
        self.clock = clock
        self.events: list[Event] = []
        self.nodes = {site: Trainer(site, layout, clock) for site in sites}
        self.registry = ClientRegistry(len(sites))
        for node in self.nodes.values():
            self.registry.register(node)
            self.registry.admit(node, _hello(node.cid))
        context = FoldContext(0, settings, path, min_clients, self.registry, self)
        kept = self.folder.description()
        assert kept is not None
        self.server = RoundServer(self.registry, Slow(resume(context, kept), clock), lambda: None)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def attempt(self) -> None:
        """Try the next round."""
        number = self.server.strategy.next_round
        assert number is not None
        self.server.fit_round(number, None)
        self.server.evaluate_round(number, None)

    @property
    def last(self) -> RoundCompleted:
        return next(event for event in reversed(self.events) if isinstance(event, RoundCompleted))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fednnunet.coordinator.meters.now", clock)
    monkeypatch.setattr("fednnunet.weights.global_model._LARGEST_SLICE", 300)
    return clock


def _parts(number: int) -> int:
    """Return the bytes that tell of which parts is spoken, in one direction."""
    return sum(len(f'{{"round":{number},"group":0,"start":{start},"stop":{stop}}}') for start, stop in PARTS)


def _usual(number: int) -> Traffic:
    """Return the bytes of a round in which nothing goes wrong."""
    weights, question = 4 * PARAMETERS, len(f'{{"round":{number}}}')
    return Traffic(
        to_site=2 * question + 2 * _parts(number) + weights,
        from_site=len("{}") + len(REPORT) + 2 * _parts(number) + weights,
    )


def test_bytes_are_those_of_bodies_and_data_of_the_round_alone(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, clock, "A", "B")
    training.attempt()
    first = training.last.traffic
    for number in (2, 3):
        training.attempt()
        assert training.last.traffic == {"A": _usual(number), "B": _usual(number)}
    # before the first round, sites are given the model
    brought = first["A"].to_site - _usual(1).to_site
    assert 4 * PARAMETERS < brought < 4 * PARAMETERS + 1000
    assert first["A"] == first["B"]


def test_a_question_that_is_asked_again_travels_again(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, clock, "A")
    training.attempt()
    node, answers = training.nodes["A"], iter([True])
    fit = node.fit

    def pending_first(ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        if next(answers, False):
            return FitRes(OK, NO_PARAMETERS, 3, {"pending": '{"done":1,"total":2}'})
        return fit(ins, timeout, group_id)

    node.fit = pending_first  # type: ignore[method-assign]
    training.attempt()
    usual = _usual(2)
    assert training.last.traffic["A"] == Traffic(to_site=usual.to_site + len('{"round":2}'), from_site=usual.from_site)


def test_seconds_are_split_into_training_validating_averaging_and_moving(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, clock, "A", "B")
    training.attempt()
    training.nodes["A"].training, training.nodes["B"].training = [4.0], [7.0]
    training.nodes["A"].validating, training.nodes["B"].validating = 0.5, 1.5
    aggregate, broadcast = Exchange.aggregate, Exchange.broadcast
    reduce, advance = GlobalModel.aggregate, GlobalModel.advance
    monkeypatch.setattr(Exchange, "aggregate", lambda *words: (clock.spend(3), aggregate(*words))[1])
    monkeypatch.setattr(Exchange, "broadcast", lambda *words: (clock.spend(2), broadcast(*words))[1])
    monkeypatch.setattr(GlobalModel, "aggregate", lambda *words: (clock.spend(0.5), reduce(*words))[1])
    # in a thread of its own, beside moving
    monkeypatch.setattr(GlobalModel, "advance", lambda *words: (clock.spend(0.25), advance(*words))[1])
    training.attempt()
    timing = training.last.timing
    assert timing is not None
    assert timing.training == {"A": 4, "B": 7}
    assert timing.validating == {"A": 0.5, "B": 1.5}
    assert timing.averaging == len(PARTS) * (0.5 + 0.25)
    assert timing.moving == 3 + 2 + len(PARTS) * 0.5 - timing.averaging
    assert training.last.seconds == 10 + 2 + 3 + 2 + len(PARTS) * 0.5


def test_a_round_that_is_repeated_costs_what_all_attempts_have_cost(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, clock, "A", "B", min_clients=2)
    training.attempt()
    late = training.nodes["B"]
    late.problems = [SiteLate("B", "it did not finish within 10 s")]
    training.nodes["A"].training = [5.0, 0.5]
    late.training = [10.0, 2.0]
    training.attempt()
    assert training.last.round == 1
    training.attempt()
    completed = training.last
    assert (completed.round, completed.seconds, completed.left_out) == (2, 10 + (10 + 2), {})
    assert completed.timing is not None
    assert completed.timing.training == {"A": 5.5, "B": 2.0}
    question = len('{"round":2}')
    usual = _usual(2)
    assert completed.traffic["A"] == Traffic(to_site=usual.to_site + question, from_site=usual.from_site + len("{}"))
    assert completed.traffic["B"].to_site > usual.to_site + question + 4 * PARAMETERS  # it was given the model again
    assert training.folder.history()[-1].attempts == 2


def test_a_site_that_drops_out_is_named_and_costs_until_then_only(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, clock, "A", "B")
    training.attempt()
    training.nodes["B"].problems = [FednnUNetError("the disk is full")]
    training.attempt()
    assert training.last.left_out == {"B": "the disk is full"}
    assert training.last.traffic == {"A": _usual(2), "B": Traffic(to_site=len('{"round":2}'), from_site=0)}
    assert training.last.timing is not None
    assert set(training.last.timing.training) == set(training.last.timing.validating) == {"A"}
    training.attempt()
    assert training.last.left_out == {"B": "it was not connected"}
    assert set(training.last.traffic) == {"A"}
    assert [record.left_out for record in training.folder.history()] == [
        {},
        {"B": "the disk is full"},
        {"B": "it was not connected"},
    ]


def test_a_site_that_is_lost_while_the_model_is_handed_out_has_trained_but_not_validated(
    tmp_path: Path, clock: Clock
) -> None:
    training = Training(tmp_path, clock, "A", "B")
    training.attempt()
    node = training.nodes["B"]
    respond = node.respond

    def refuse(kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        return {"failure": "out of memory"} if kind == "hand" else respond(kind, body, data)

    node.respond = refuse  # type: ignore[method-assign]
    with contextlib.suppress(StopIteration):
        training.attempt()
    assert training.last.round == 2
    assert training.last.left_out == {"B": "out of memory"}
    assert training.last.timing is not None
    assert set(training.last.timing.training) == {"A", "B"}
    assert set(training.last.timing.validating) == {"A"}


def test_the_event_survives_its_file(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, clock, "A")
    training.attempt()
    assert RoundCompleted.from_json(training.last.to_json()) == training.last
    assert np.isfinite(training.last.seconds)
