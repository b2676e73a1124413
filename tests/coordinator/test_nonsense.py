"""Numbers that cannot be, from one site: it is named, and the others go on, or hear a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.common import FitIns, FitRes, Scalar

from fednnunet.coordinator.evaluating import EvaluationRequest, evaluate
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import Event, Finished, SitesEvaluated
from fednnunet.events.sinks import Tee
from fednnunet.fingerprint.questions import MomentsQuestion
from fednnunet.protocol.messages import EvaluationReport, MetricSummaries, MetricSummary, Ready, TrainingOffer
from fednnunet.transport.connection import NO_PARAMETERS
from tests.coordinator.fake_node import OK, FakeNode
from tests.coordinator.test_federation import Site, _run
from tests.coordinator.training_federation import LAYOUT, Events, Trainer, run_training

REPORT = {"train_loss": 0.5, "val_loss": 0.5, "mean_dice": 0.5, "dice": {"x": 0.5}}


@pytest.mark.parametrize(
    "wrong",
    [{"mean_dice": 1.5}, {"mean_dice": -1e300}, {"dice": {"x": 2}}, {"dice": {"x": -0.1}}, {"mean_dice": "much"}],
)
def test_a_report_that_cannot_be_one_costs_its_site_the_round_and_nobody_else(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    liar = Trainer("C", evaluate=lambda body: {"body": json.dumps(REPORT | wrong)})
    nodes = [Trainer("A"), Trainer("B"), liar]
    federation, events = run_training(tmp_path, nodes, "--rounds", "2", "--min_clients", "2")
    assert federation.error is None
    assert [sorted(event.sites) for event in events.rounds] == [["A", "B"]] * 2
    assert liar.has_left.wait(60)
    assert "RoundReport message is malformed" in str(liar.farewell)


def test_huge_losses_count_as_none(tmp_path: Path) -> None:
    body = json.dumps(REPORT | {"train_loss": 1e308, "val_loss": -1e308})
    nodes = [Trainer(site, evaluate=lambda _: {"body": body}) for site in "AB"]
    federation, events = run_training(tmp_path, nodes, "--rounds", "1")
    assert federation.error is None
    assert [report.train_loss for report in events.rounds[0].sites.values()] == [None, None]


@pytest.mark.parametrize(
    ("kind", "answer", "why"),
    [
        ("start", Ready(tensors=list(LAYOUT.tensors), training_cases=6, pretrained=False), "more than its 5 cases"),
        ("start", {"tensors": [], "training_cases": 10**9, "pretrained": False}, "malformed"),
        ("offer", {"epochs": 10**9, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}, "malformed"),
    ],
)
def test_what_a_site_says_of_its_training_is_held_against_its_introduction(
    tmp_path: Path, kind: str, answer: Any, why: str
) -> None:
    body = json.dumps(answer) if isinstance(answer, dict) else answer.to_json()
    federation, _ = run_training(tmp_path, [Trainer("A"), Trainer("B", **{kind: lambda _: {"body": body}})])
    assert isinstance(federation.error, SiteFailure)
    assert federation.error.site == "B"
    assert why in str(federation.error)


@pytest.mark.parametrize("cases", [10**9, 100_001])
def test_nobody_has_a_billion_cases(cases: int) -> None:
    class Boaster(Site):
        def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
            reply = super().respond(kind, body, data)
            return {"body": str(reply["body"]).replace('"cases":2', f'"cases":{cases}')} if kind == "hello" else reply

    boaster, right = Boaster("B"), Site("B")
    federation, _ = _run(2, Site("A"), boaster, right)
    assert federation.error is None
    assert "cases" in str(boaster.farewell)
    assert right.common is not None


class Liar(Site):
    """A site that answers questions for a fingerprint as it likes."""

    def __init__(self, site: str, moments: Any, digits: Any) -> None:
        super().__init__(site)
        self.moments, self.digits = moments, digits

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        from fednnunet.protocol.messages import Query

        question = Query.from_json(str(ins.config["body"])).question
        lie = self.moments if isinstance(question, MomentsQuestion) else self.digits
        answer = lie(self.measurement.answer(question))
        return FitRes(OK, NO_PARAMETERS, 1, {"data": answer.tobytes()})


def _as_it_is(answer: np.ndarray) -> np.ndarray:
    return answer


@pytest.mark.parametrize(
    ("moments", "digits"),
    [
        (lambda answer: answer + (1 << 62), _as_it_is),
        (lambda answer: answer * 0, _as_it_is),
        (lambda answer: answer[:-1], _as_it_is),
        (_as_it_is, lambda answer: answer * 3),
        (_as_it_is, lambda answer: answer[:-1]),
        (_as_it_is, lambda answer: answer[::-1].copy()),
        (_as_it_is, lambda answer: -answer),
    ],
)
def test_a_fingerprint_that_cannot_be_made_is_the_failure_of_the_site_that_has_lied(moments: Any, digits: Any) -> None:
    nodes = [Site("A"), Liar("B", moments, digits), Site("C")]
    federation, _ = _run(3, *nodes)
    assert isinstance(federation.error, SiteFailure)
    assert federation.error.site == "B"
    assert all(str(node.farewell).startswith("Site B failed: ") for node in nodes)


def _evaluated(site: str, **dice: Any) -> EvaluationReport | dict[str, Any]:
    honest = EvaluationReport(labels={}, overall=MetricSummaries(**dict.fromkeys(("dice", "hd95", "assd"), _summary())))
    return {**honest.model_dump(), "overall": {**honest.overall.model_dump(), **dice}}


def _summary() -> MetricSummary:
    return MetricSummary(mean=0.5, std=0.1, median=0.5, cases=2)


@pytest.mark.parametrize(
    "lie",
    [
        {"hd95": {"mean": 1, "std": 1e200, "median": 1, "cases": 2}},
        {"hd95": {"mean": -1, "std": 1, "median": 1, "cases": 2}},
        {"dice": {"mean": 1.01, "std": 0, "median": 1, "cases": 2}},
        {"dice": {"mean": 1, "std": 0, "median": 1, "cases": 3}},
        {"assd": {"mean": 1, "std": 0, "median": 1, "cases": 10**9}},
    ],
)
def test_an_evaluation_that_cannot_be_one_leaves_its_site_out(tmp_path: Path, lie: dict[str, Any]) -> None:
    class Tester(FakeNode):
        def __init__(self, site: str, lie: dict[str, Any]) -> None:
            super().__init__(cid=site)
            self.body = json.dumps(_evaluated(site, **lie))

        def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
            return {"body": self.body}

    registry, seen = ClientRegistry(2), Events()
    for name in "AB":
        node = Tester(name, lie if name == "B" else {})
        registry.register(node)
        registry.admit(node, Site(name, 2, task="evaluate", fold="0").hello)
    evaluate(EvaluationRequest(), tmp_path, registry, seen)
    (event,) = (event for event in seen.seen if isinstance(event, SitesEvaluated))
    assert list(event.sites) == ["A"]
    assert list(event.left_out) == ["B"]


class Broken:
    """A sink that cannot take anything."""

    def __init__(self) -> None:
        self.taken = 0

    def emit(self, event: Event) -> None:
        self.taken += 1
        raise OverflowError("int too large to convert to float")


def test_a_display_that_fails_is_told_once_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken, seen = Broken(), Events()
    federation, _ = run_training(tmp_path, [Trainer("A"), Trainer("B")], "--rounds", "2", sink=Tee([broken, seen]))
    assert federation.error is None
    assert len(seen.rounds) == 2
    assert isinstance(seen.seen[-1], Finished)
    assert broken.taken == 1
    assert [message for message in caplog.messages if "Broken" in message] == [
        "Broken is no longer updated (OverflowError)."
    ]


def test_other_sites_do_not_hear_the_text_of_an_error_that_is_not_for_people() -> None:
    class Sink:
        def emit(self, event: Event) -> None:
            raise KeyError("/home/user/patient 7")

    from fednnunet.cli.arguments import parse_server
    from fednnunet.coordinator.federation import Federation
    from fednnunet.protocol.conversation import NO_CERTIFICATE
    from fednnunet.security.authentication import Authenticator

    federation = Federation(
        parse_server(["extract_fingerprint", "--num_clients", "1"]).coordinator,
        Sink(),
        Authenticator(None, NO_CERTIFICATE),
    )
    federation.error = KeyError("/home/user/patient 7")
    node = Site("A")
    federation.registry.register(node)
    federation.registry.admit(node, node.hello)
    federation.disconnect()
    assert node.farewell == "The coordinator has failed, see its output."


def test_an_unexpected_error_in_taking_an_answer_does_not_tell_others_its_text() -> None:
    from fednnunet.coordinator.asking import for_all
    from tests.coordinator.test_site import Node, _site

    def fail(site: object) -> None:
        raise ValueError("patient 7")

    with pytest.raises(FednnUNetError) as failure:
        for_all([_site(Node())], fail)
    assert "patient" not in str(failure.value)


def test_an_offer_within_bounds_is_taken() -> None:
    assert TrainingOffer(epochs=10**6, iterations_per_epoch=250, val_iterations_per_epoch=50).epochs == 10**6
