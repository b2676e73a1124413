"""The coordinator with nodes that live in this process: who is let in, who is told what, and how it ends."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.common import DisconnectRes, FitIns, FitRes, ReconnectIns, Scalar

from fednnunet.cli.arguments import parse_server
from fednnunet.coordinator.federation import Federation
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import Event, Finished, SiteJoined
from fednnunet.fingerprint.distribution import Distribution
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.sampling import samples_per_case
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.protocol.messages import CommonPlans, Hello, Installed, Measured, Query
from fednnunet.security.authentication import Authenticator
from fednnunet.security.identity import Challenge, SiteList
from fednnunet.transport.connection import NO_PARAMETERS
from tests.coordinator.fake_node import OK, FakeNode
from tests.secure_aggregation.sites import identities, site_list

KEYS = identities()


class Site(FakeNode):
    """A node of the task extract_fingerprint."""

    def __init__(self, site: str, cases: int = 2, on_fit: Callable[[], None] = lambda: None, **facts: Any) -> None:
        super().__init__(cid=f"connection of {site} {id(self)}")
        defaults: dict[str, Any] = {
            "task": "extract_fingerprint",
            "instance": str(id(self)),
            "method": "FFE",
            "image_reader": "SimpleITKIO",
            "fingerprint": "exact",
            "versions": {"nnunetv2": "2.8.1"},
            "labels": {"background": 0, "x": 1},
            "channels": {"0": "CT"},
        }
        self.hello = Hello(site=site, cases=cases, **{**defaults, **facts})
        self.on_fit = on_fit
        self.farewell: str | None = "none was said"
        self.common: Fingerprint | None = None
        self.is_flat = False
        self.disconnected = False
        self.end_connection: Callable[[], None] = lambda: None

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        if kind == "farewell":
            self.farewell = json.loads(body)["error"]
            return {"body": body}
        if kind == "measure":
            self.measurement = _measurement(self.hello.cases, samples_per_case(json.loads(body)["cases"]))
            return {"body": Measured(is_two_dimensional=self.is_flat).to_json()}
        if kind == "install":
            self.common = Fingerprint.from_nnunet(CommonPlans.from_json(body).fingerprint)
            return {"body": Installed().to_json()}
        return {"body": self.hello.to_json()}

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        try:
            self.on_fit()
        except FednnUNetError as error:
            return FitRes(OK, NO_PARAMETERS, 0, {"failure": str(error)})
        question = Query.from_json(str(ins.config["body"])).question
        return FitRes(OK, NO_PARAMETERS, 1, {"data": self.measurement.answer(question).tobytes()})

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        self.disconnected = True
        self.end_connection()
        return DisconnectRes("")


def _measurement(cases: int, samples: int) -> SiteMeasurement:
    """Measure cases whose voxels all have the number of the site's cases as their intensity."""
    return SiteMeasurement(
        spacings=np.full((cases, 3), 1.5),
        shapes=np.full((cases, 3), 20, np.uint32),
        relative_sizes=np.ones(cases),
        samples=(Distribution.of(np.array([cases], np.float32), np.array([cases * samples])),),
    )


class _Events:
    def __init__(self) -> None:
        self.seen: list[Event] = []

    def emit(self, event: Event) -> None:
        self.seen.append(event)


def _connect(node: Site, federation: Federation) -> None:
    federation.registry.register(node)
    node.end_connection = lambda: federation.registry.unregister(node)


def _run(num_clients: int, *nodes: Site) -> tuple[Federation, list[Event]]:
    """Let `nodes` connect in order, and run the federation to its end."""
    events = _Events()
    arguments = parse_server(["extract_fingerprint", "--num_clients", str(num_clients)]).coordinator
    federation = Federation(arguments, events, Authenticator(None, NO_CERTIFICATE))
    for node in nodes:
        _connect(node, federation)
    federation.run()
    return federation, events.seen


def test_all_sites_get_the_fingerprint_of_all_and_a_farewell_without_error() -> None:
    nodes = [Site("C", 1), Site("A", 2), Site("B", 3)]
    federation, events = _run(3, *nodes)
    assert federation.error is None
    assert [event.site for event in events if isinstance(event, SiteJoined)] == ["C", "A", "B"]
    assert isinstance(events[-1], Finished)
    for node in nodes:
        assert node.farewell is None
        assert node.disconnected
        assert node.common is not None
        np.testing.assert_array_equal(np.median(node.common.spacings, axis=0), [1.5] * 3)
        mean, median, _, low, high, *_ = node.common.intensities[0]
        assert mean == (1 * 1 + 2 * 2 + 3 * 3) / 6
        assert (low, median, high) == (1, 2.5, 3)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (Site("B", labels={"background": 0, "y": 1}), "labels"),
        (Site("B", channels={"0": "MRI"}), "channels"),
        (Site("A"), "is already connected"),
        (Site("B", task="plan_and_preprocess"), "started for plan_and_preprocess"),
    ],
)
def test_a_node_that_does_not_fit_is_told_why_and_leaves_its_place_to_another(wrong: Site, why: str) -> None:
    first, right = Site("A"), Site("B")
    federation, _ = _run(2, first, wrong, right)
    assert federation.error is None
    assert wrong.farewell is not None
    assert why in wrong.farewell
    assert wrong.disconnected
    assert wrong.common is None
    assert right.common is not None


def test_a_node_that_does_not_fit_ends_the_federation_if_it_cannot_be_started_again() -> None:
    arguments = parse_server(["extract_fingerprint", "--num_clients", "2"]).coordinator
    federation = Federation(arguments, _Events(), Authenticator(None, NO_CERTIFICATE), nodes_return=False)
    first, wrong = Site("A"), Site("B", channels={"0": "MRI"})
    for node in (first, wrong):
        _connect(node, federation)
    federation.run()
    assert "channels" in str(federation.error)
    assert first.farewell == str(federation.error)
    assert wrong.disconnected


class _SecureSite(Site):
    """Proves who it is, and takes part in masked sums only."""

    def __init__(self, site: str, listed: SiteList | None) -> None:
        super().__init__(site, sites_digest=None if listed is None else listed.digest)

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        if kind != "hello":
            return super().respond(kind, body, data)
        introduction = self.hello.to_json()
        proof = KEYS[self.hello.site].prove(Challenge.from_json(body), NO_CERTIFICATE, introduction)
        self.run = Challenge.from_json(body).run
        return {"body": introduction, "data": proof}


def _secure_federation(*nodes: Site) -> Federation:
    words = ["extract_fingerprint", "--num_clients", "3", "--secure"]
    authenticator = Authenticator(site_list(KEYS), NO_CERTIFICATE)
    federation = Federation(parse_server(words).coordinator, _Events(), authenticator, nodes_return=False)
    for node in nodes:
        _connect(node, federation)
    federation.run()
    return federation


def test_a_site_whose_answers_would_not_be_masked_is_refused_by_a_coordinator_that_sees_sums_only() -> None:
    wrong = _SecureSite("A", None)
    federation = _secure_federation(wrong)
    assert str(federation.error).startswith("Site A sends plain answers: start its node with --sites")
    assert wrong.farewell == str(federation.error)


def test_the_fingerprint_is_found_with_the_list_of_sites_and_the_name_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed, given = site_list(KEYS), {}
    monkeypatch.setattr(
        "fednnunet.coordinator.fingerprinting.find_fingerprint", lambda *_, **more: given.update(more) or None
    )
    nodes = [_SecureSite(name, listed) for name in KEYS]
    assert _secure_federation(*nodes).error is None
    assert given["listed"].digest == listed.digest
    assert [node.run for node in nodes] == [given["run_id"]] * 3


def test_sites_with_slices_and_sites_with_volumes_have_no_common_fingerprint() -> None:
    flat, other = Site("A"), Site("B")
    flat.is_flat = True
    federation, _ = _run(2, flat, other)
    assert str(federation.error).startswith("Site A has 2D images, site B has 3D images")
    assert flat.common is None


def test_a_fingerprint_of_fewer_than_three_cases_is_refused() -> None:
    nodes = [Site("A", 1), Site("B", 1)]
    federation, _ = _run(2, *nodes)
    assert "2 cases" in str(federation.error)
    assert "at least 3 are required" in str(nodes[0].farewell)


def test_a_node_too_many_is_turned_away() -> None:
    nodes = [Site("A"), Site("B"), Site("C")]
    federation, _ = _run(2, *nodes)
    assert federation.error is None
    assert nodes[2].farewell == "All 2 expected sites have joined: raise --num_clients to admit more."
    assert nodes[2].common is None
    assert not federation.registry.register(Site("D"))


def test_a_reported_failure_names_the_site_and_reaches_all() -> None:
    def fail() -> None:
        raise FednnUNetError("disk is full")

    nodes = [Site("A"), Site("B", on_fit=fail)]
    federation, events = _run(2, *nodes)
    assert isinstance(federation.error, SiteFailure)
    assert federation.error.site == "B"
    assert [node.farewell for node in nodes] == ["Site B failed: disk is full"] * 2
    assert not any(isinstance(event, Finished) for event in events)


def test_a_connection_that_broke_for_good_is_a_failure_of_that_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.coordinator.site.RETURN_WITHIN_SECONDS", 0.1)

    def vanish() -> None:
        raise ConnectionResetError

    federation, _ = _run(2, Site("A"), Site("B", on_fit=vanish))
    assert isinstance(federation.error, SiteFailure)
    assert federation.error.site == "B"
    assert "its connection broke" in str(federation.error)


def test_a_node_that_leaves_while_others_are_awaited_frees_its_place() -> None:
    events = _Events()
    federation = Federation(
        parse_server(["extract_fingerprint", "--num_clients", "2"]).coordinator,
        events,
        Authenticator(None, NO_CERTIFICATE),
    )
    registry = federation.registry
    gone, back, other = Site("A"), Site("A"), Site("B")
    for node in (gone, back, other):
        _connect(node, federation)
    said_hello = gone.respond

    def leave_after_hello(kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        answer = said_hello(kind, body, data)
        registry.unregister(gone)
        return answer

    gone.respond = leave_after_hello  # type: ignore[method-assign]
    federation.run()
    assert federation.error is None
    assert gone.common is None
    assert back.common is not None
