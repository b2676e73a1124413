"""Whatever names a site tells figures of, reports are of the labels that it has introduced."""

import csv
import json
from pathlib import Path

import pytest
from flwr.common import Scalar

from fednnunet.coordinator.evaluating import evaluate
from fednnunet.coordinator.own_labels import of_own_labels
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.events.events import Event, SitesEvaluated
from fednnunet.protocol.messages import EvaluationReport, EvaluationRequest, Hello, RoundReport, ValidationReport
from tests.coordinator.fake_node import FakeNode

HELLO = Hello(
    site="A",
    task="evaluate",
    method="FFE",
    cases=3,
    versions={},
    labels={"background": 0, "=liver": 1, "a|b": [1, 2]},
    channels={"0": "CT"},
    fold="0",
    evaluation={"configuration": "2d", "checkpoint": "checkpoint_final.pth"},
)
_SUMMARY = {"mean": 0.5, "std": 0.1, "median": 0.5, "cases": 3}
_SUMMARIES = {"dice": _SUMMARY, "hd95": _SUMMARY, "assd": _SUMMARY}


def test_figures_of_other_labels_are_left_out_of_a_round(caplog: pytest.LogCaptureFixture) -> None:
    dice = {"=liver": 0.5, "a|b": None, **{f"new {number}\x1b[2J": 0.1 for number in range(900)}}
    report = RoundReport.model_construct(train_loss=None, val_loss=None, mean_dice=0.5, dice=dice)
    assert of_own_labels(report, HELLO).dice == {"=liver": 0.5, "a|b": None}
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().isprintable()


def test_a_report_of_own_labels_is_taken_as_it_is() -> None:
    report = ValidationReport(mean_dice=0.5, dice={"=liver": 0.5})
    assert of_own_labels(report, HELLO) is report


class _Node(FakeNode):
    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        labels = {name: _SUMMARIES for name in ("=liver", "a|b", "=cmd|' /C calc'!A0")}
        return {"body": json.dumps({"labels": labels, "overall": _SUMMARIES})}


class _Sink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_an_evaluation_has_the_labels_of_the_introduction_safe_in_every_file(tmp_path: Path) -> None:
    registry, node, sink = ClientRegistry(1), _Node("1"), _Sink()
    registry.register(node)
    registry.admit(node, HELLO)
    evaluate(EvaluationRequest(), tmp_path, registry, sink)
    (event,) = [event for event in sink.events if isinstance(event, SitesEvaluated)]
    assert set(event.sites["A"].labels) == {"=liver", "a|b"}
    (table,) = tmp_path.glob("*.csv")
    labels = {row[1] for row in csv.reader(table.read_text(encoding="utf-8").splitlines())}
    assert labels == {"label", "'=liver", "a|b", "overall"}
    (text,) = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*.md")]
    assert r"| site | =liver | a\|b | overall |" in text
    (kept,) = tmp_path.glob("*.json")
    assert isinstance(EvaluationReport.model_validate(json.loads(kept.read_text())["sites"]["A"]), EvaluationReport)
