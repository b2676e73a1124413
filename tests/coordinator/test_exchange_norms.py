"""Norms of the sites' updates: what an exchange finds, and what a training makes of it."""

import logging
from pathlib import Path

import numpy as np
import pytest
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Scalar

from fednnunet.coordinator.agreement import FoldContext, averaging_of, other_flags, resume
from fednnunet.coordinator.exchange import Averaging, Exchange, SpoiltUpdates
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.rounds import RoundServer
from fednnunet.coordinator.run_folder import FoldFolder, RunDescription, SharedTensors
from fednnunet.coordinator.training import FederatedAveraging
from fednnunet.errors import SiteFailure
from fednnunet.events.events import Event, UpdateOutOfLine
from fednnunet.protocol.messages import Ready, RoundReport, Schedule
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.transport.connection import NO_PARAMETERS
from fednnunet.weights.encoding import ENCODINGS, EncodingName
from fednnunet.weights.layout import Layout, TensorSpec, state_name
from fednnunet.weights.sharing import Group
from tests.coordinator.fake_node import OK
from tests.coordinator.test_exchange import Holder, _begin, _hello, _layout, _sites

EACH = pytest.mark.parametrize("encoding", ENCODINGS)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model travel in several parts."""
    monkeypatch.setattr("fednnunet.weights.global_model._LARGEST_SLICE", 300)


def _federation(encoding: EncodingName, **values: float) -> tuple[Exchange, list[Holder]]:
    """Return sites whose updates change every number by `values`, from ones."""
    nodes = [Holder(site, _layout(a=1000), 1) for site in values]
    exchange, _ = _begin(nodes, averaging=Averaging(encoding, "mean", "none", None))
    for node, value in zip(nodes, values.values(), strict=True):
        node.hold(1 + value)
    return exchange, nodes


@EACH
def test_the_norm_is_that_of_the_change_whatever_the_encoding(encoding: EncodingName) -> None:
    exchange, nodes = _federation(encoding, A=0.5, B=-2, C=0)
    norms = exchange.aggregate(_sites(nodes), 1, dict.fromkeys("ABC", 1)).weights
    assert norms == pytest.approx({"A": 0.5, "B": 2, "C": 0}, rel=0.02)


@EACH
def test_the_next_rounds_norm_is_that_of_the_change_since_this_one(encoding: EncodingName) -> None:
    exchange, nodes = _federation(encoding, A=3, B=3)
    sites = _sites(nodes)
    exchange.aggregate(sites, 1, dict.fromkeys("AB", 1))
    exchange.broadcast(sites, 1)
    for node in nodes:
        node.hold(node.received[0] + 1)
    assert exchange.aggregate(sites, 2, dict.fromkeys("AB", 1)).weights == pytest.approx({"A": 1, "B": 1}, rel=0.05)


def test_norms_of_sites_that_share_different_tensors_can_be_compared() -> None:
    nodes = [
        Holder("A", _layout(stem=600, deep=2400), 1),
        Holder("B", _layout(stem=600, deep=2400), 1),
        Holder("C", _layout(stem=600, own=50), 1),
    ]
    exchange, groups = _begin(nodes, cohorts=True)
    assert [group.sites for group in groups] == [("A", "B", "C"), ("A", "B")]
    nodes[0].model.hold(np.array([1.0] * 600 + [2.0] * 2400, np.float32))
    nodes[1].hold(1)
    nodes[2].hold(2)
    norms = exchange.aggregate(_sites(nodes), 1, dict.fromkeys("ABC", 1)).weights
    assert norms == pytest.approx({"A": np.sqrt(2400 / 3000), "B": 0, "C": 1})


def test_a_site_that_shares_nothing_has_no_norm() -> None:
    layouts = {"A": _layout(stem=5), "B": _layout(stem=5), "C": _layout(stem=6)}
    nodes = [Holder(site, layout, 1) for site, layout in layouts.items()]
    exchange, _ = _begin(nodes, cohorts=True)
    assert set(exchange.aggregate(_sites(nodes), 1, dict.fromkeys("ABC", 1)).weights) == {"A", "B"}


@pytest.mark.parametrize("left", ["AB", "BC"])
def test_norms_are_those_of_the_last_gathering_only(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.coordinator.site.RETURN_WITHIN_SECONDS", 0.1)
    exchange, nodes = _federation("float32", A=1, B=2, C=3)
    expected = {"A": 1, "B": 2, "C": 3}
    last = nodes[2]
    count = iter(range(3))
    last.damage = lambda data: data if next(count) < 2 else b""  # after two of four parts
    with pytest.raises(SiteFailure):
        exchange.aggregate(_sites(nodes), 1, dict.fromkeys("ABC", 1))
    last.damage = lambda data: data
    sites = [site for site in _sites(nodes) if site.name in left]
    assert exchange.aggregate(sites, 1, dict.fromkeys("ABC", 1)).weights == {site: expected[site] for site in left}


@pytest.mark.parametrize("encoding", ["float32", "int8"])
def test_an_update_whose_square_is_infinite_in_float32_is_refused_with_its_site(encoding: EncodingName) -> None:
    exchange, nodes = _federation(encoding, A=1, B=1, C=1e30)
    with pytest.raises(SpoiltUpdates) as spoilt:
        exchange.aggregate(_sites(nodes), 1, dict.fromkeys("ABC", 1))
    assert [failure.site for failure in spoilt.value.failures] == ["C"]


class _Trainer(Holder):
    """A site that learns one number."""

    learns = 0.0

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        self.hold(self.learns)
        return FitRes(OK, NO_PARAMETERS, 1, {})

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        report = RoundReport(train_loss=0, val_loss=0.25, mean_dice=0, dice={})
        return EvaluateRes(OK, 0.0, 1, {"body": report.to_json()})

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        if kind == "start":
            return {"body": Ready(tensors=list(self.layout.tensors), training_cases=3, pretrained=False).to_json()}
        return super().respond(kind, body, data)


class _Training:
    """A training of one round that is about to begin, with a global model of zeros."""

    def __init__(self, path: Path, *sites: str) -> None:
        settings = CoordinatorSettings(
            task="train",
            num_clients=len(sites),
            encoding="float32",
            optimizer_state="local",
            resume=True,
        )
        layout = Layout((TensorSpec("a", (1000,), "float32"),))
        description = RunDescription(
            run="one",
            fold=0,
            sites=dict.fromkeys(sites, 1),
            plans=dict.fromkeys(sites),
            schedule=Schedule(rounds=1, local_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1),
            averaging=averaging_of(settings),
            flags=other_flags(settings),
            shared=[SharedTensors(sites=list(sites), tensors=list(layout.tensors))],
        )
        self.folder = FoldFolder.of(path, 0)
        self.folder.begin(description)
        self.folder.keep_model(0, Exchange([Group(sites, layout)], averaging_of(settings)).state)
        self.events: list[Event] = []
        self.nodes = [_Trainer(site, layout, 0) for site in sites]
        registry = ClientRegistry(len(sites))
        for node in self.nodes:
            registry.register(node)
            registry.admit(node, _hello(node.cid))
        context = FoldContext(0, settings, path, 2, registry, self)
        self._server = RoundServer(registry, FederatedAveraging(resume(context, description)), lambda: None)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def found(self) -> list[UpdateOutOfLine]:
        return [event for event in self.events if isinstance(event, UpdateOutOfLine)]

    def round(self, *values: float) -> None:
        """Complete the round with updates of these numbers."""
        for node, value in zip(self.nodes, values, strict=True):
            node.learns = value
        history, _ = self._server.fit(1, None)
        assert history.losses_distributed == [(1, 0.25)]


def _of_updates(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("The update")]


def test_an_update_that_is_out_of_line_is_told_once_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = _Training(tmp_path, "A", "B", "C")
    with caplog.at_level(logging.WARNING):
        training.round(1, -2, 18)
    assert training.found == [UpdateOutOfLine(site="C", round=1, ratio=12)]
    assert _of_updates(caplog) == [
        ("The update of site C in round 1 is 12 times the median of the others: check its training log.")
    ]
    (record,) = training.folder.history()
    assert record.norms == {"A": 1, "B": 2, "C": 18}


def test_updates_that_are_alike_are_kept_and_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = _Training(tmp_path, "A", "B", "C")
    with caplog.at_level(logging.WARNING):
        training.round(1, -2, 3)
    assert (training.found, _of_updates(caplog)) == ([], [])
    assert training.folder.history()[0].norms == {"A": 1, "B": 2, "C": 3}


def test_of_two_sites_none_is_out_of_line(tmp_path: Path) -> None:
    training = _Training(tmp_path, "A", "B")
    training.round(1, 1000)
    assert training.found == []


def test_who_alone_changes_the_model_is_told_without_a_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = _Training(tmp_path, "A", "B", "C")
    with caplog.at_level(logging.WARNING):
        training.round(0, 0, 900)
    assert training.found == [UpdateOutOfLine(site="C", round=1, ratio=None)]
    assert _of_updates(caplog) == [
        (
            "The update of site C in round 1 changes the model, while those of most others do not: "
            "check its training log."
        )
    ]
    assert training.folder.history()[0].norms["C"] == pytest.approx(900)


def test_a_site_whose_momentum_alone_is_out_of_line_is_found() -> None:
    momentum = TensorSpec(state_name("a", "momentum_buffer"), (1000,), "float32")
    nodes = [Holder(site, Layout((*_layout(a=1000).tensors, momentum)), 0) for site in "ABC"]
    exchange, _ = _begin(nodes)
    for node, value in zip(nodes, (1, 1, 20), strict=True):
        node.model.hold(np.concatenate([np.ones(1000, np.float32), np.full(1000, value, np.float32)]))
    norms = exchange.aggregate(_sites(nodes), 1, dict.fromkeys("ABC", 1))
    assert norms.weights == {"A": 1, "B": 1, "C": 1}
    assert norms.optimizer == {"A": 1, "B": 1, "C": 20}
    assert norms.outliers() == {"C": 20}
