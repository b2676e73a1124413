"""Who is waited for, who is given the model again, and who is left out."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.common import DisconnectRes, ReconnectIns, Scalar

from fednnunet.coordinator.participation import Participation
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.site import Site, SiteLate, SiteLost
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import Event, SiteLeftOut, SitesAwaited, SiteTakenIn
from fednnunet.protocol.messages import Farewell, Hello
from fednnunet.report.status import STATUS, StatusFile, read_status
from tests.coordinator.fake_node import FakeNode


class Node(FakeNode):
    """A node that hears why it is not needed any more."""

    def __init__(self, site: str) -> None:
        super().__init__(cid=f"connection of {site} {id(self)}")
        self.farewell: str | None = None
        self.has_left = threading.Event()

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        assert kind == "farewell"
        self.farewell = Farewell.from_json(body).error
        return {"body": body}

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        self.has_left.set()
        return DisconnectRes("")


class Federation(ClientRegistry):
    """Three places; `meanwhile` happens, one after the other, while sites are awaited."""

    def __init__(self, *present: str, nodes_return: bool = True) -> None:
        super().__init__(places=3, nodes_return=nodes_return)
        self.settle()
        self.meanwhile: list[Callable[[], object]] = []
        self.idle = 0
        self.nodes: dict[str, Node] = {}
        self.prepared: list[str] = []
        self.events: list[Event] = []
        for site in present:
            self.join(site)

    def join(self, site: str, instance: str = "first") -> None:
        self.nodes[site] = node = Node(site)
        assert self.register(node)
        assert self.admit(
            node,
            Hello(
                site=site, instance=instance, task="train", method="FFE", cases=1, versions={}, labels={}, channels={}
            ),
        )

    def leave(self, site: str) -> None:
        self.unregister(self.nodes[site])

    def wait_for_change(self, seconds: float) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        else:
            self.idle += 1
            assert self.idle < 10_000, "nobody comes any more"

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def prepare(self, site: Site) -> None:
        self.prepared.append(site.name)

    @property
    def awaited(self) -> list[SitesAwaited]:
        return [event for event in self.events if isinstance(event, SitesAwaited) and event.sites]

    @property
    def taken_in(self) -> list[SiteTakenIn]:
        return [event for event in self.events if isinstance(event, SiteTakenIn)]

    def participation(self, needed: int, give_up_after: float | None = None) -> Participation:
        return Participation(self, needed, give_up_after, self)

    def site(self, name: str) -> Site:
        site = self.named(name)
        assert site is not None
        return site


def _names(sites: Iterable[Site]) -> list[str]:
    return [site.name for site in sites]


def _nothing() -> None:
    pass


def test_all_that_are_there_take_part_once_they_have_the_model() -> None:
    federation = Federation("C", "A", "B")
    participation = federation.participation(3)
    assert _names(participation.wait_for_quorum(0, federation.prepare)) == ["A", "B", "C"]
    assert sorted(federation.prepared) == ["A", "B", "C"]
    assert _names(participation.wait_for_quorum(0, federation.prepare)) == ["A", "B", "C"]
    assert len(federation.prepared) == 3
    assert federation.events == []


def test_two_of_three_are_enough_if_no_more_are_needed() -> None:
    federation = Federation("A", "B", "C")
    federation.leave("C")
    assert _names(federation.participation(2).wait_for_quorum(0, federation.prepare)) == ["A", "B"]
    assert sorted(federation.prepared) == ["A", "B"]
    assert federation.events == []


def test_who_is_missing_is_told_once_and_waited_for() -> None:
    federation = Federation("A", "B", "C")
    federation.leave("B")
    federation.meanwhile = [_nothing, _nothing, lambda: federation.join("B")]
    assert _names(federation.participation(3).wait_for_quorum(0, federation.prepare)) == ["A", "B", "C"]
    assert federation.awaited == [SitesAwaited(sites=["B"], present=2, needed=3)]
    assert federation.meanwhile == []


def test_it_is_told_anew_when_others_are_missing() -> None:
    federation = Federation("A", "B", "C")
    for site in "BC":
        federation.leave(site)
    federation.meanwhile = [lambda: federation.join("B"), _nothing, lambda: federation.join("C")]
    federation.participation(3).wait_for_quorum(0, federation.prepare)
    assert federation.awaited == [
        SitesAwaited(sites=["B", "C"], present=1, needed=3),
        SitesAwaited(sites=["C"], present=2, needed=3),
    ]


def test_sites_that_were_never_there_are_awaited_without_a_name() -> None:
    federation = Federation("A", "B")
    federation.leave("A")
    federation.meanwhile = [lambda: federation.join("C"), lambda: federation.join("A")]
    assert _names(federation.participation(3).wait_for_quorum(0, federation.prepare)) == ["A", "B", "C"]
    assert [event.sites for event in federation.awaited] == [["A", "others"], ["A"]]


def test_nobody_is_said_to_be_awaited_once_enough_are_there(tmp_path: Path) -> None:
    federation = Federation("A", "B", "C")
    for site in "BC":
        federation.leave(site)
    federation.meanwhile = [lambda: federation.join("B")]
    status = StatusFile(tmp_path / STATUS, dict)
    assert _names(Participation(federation, 2, None, status).wait_for_quorum(0, federation.prepare)) == ["A", "B"]
    awaited = read_status(tmp_path).awaited
    status.end("the test is over")
    assert awaited == []


def test_waiting_for_all_takes_every_place_and_prepares_nobody() -> None:
    federation = Federation("A", "B")
    federation.meanwhile = [_nothing, lambda: federation.join("C")]
    federation.participation(2).wait_for_all()
    assert federation.meanwhile == []
    assert federation.awaited == [SitesAwaited(sites=["others"], present=2, needed=3)]


def test_waiting_is_given_up_naming_who_is_missing() -> None:
    federation = Federation("A", "B", "C")
    federation.leave("C")
    with pytest.raises(FednnUNetError, match=r"^C did not come back within --give_up_after 0 s: .*--c"):
        federation.participation(3, give_up_after=0.0).wait_for_quorum(0, federation.prepare)


def test_a_site_that_is_done_counts_without_being_there_and_is_not_awaited() -> None:
    federation = Federation("A", "B", "C")
    participation = federation.participation(3)
    participation.wait_for_quorum(4, federation.prepare)
    for site in "BC":
        federation.leave(site)
    assert _names(participation.wait_for_quorum(4, federation.prepare, done=["A", "B", "C"])) == ["A"]
    federation.meanwhile = [lambda: federation.join("B")]
    assert _names(participation.wait_for_quorum(4, federation.prepare, done=["C"])) == ["A", "B"]
    assert [event.sites for event in federation.awaited] == [["B"]]


def test_only_a_node_that_does_not_have_the_model_is_prepared_again() -> None:
    federation = Federation("A", "B", "C")
    participation = federation.participation(2)
    participation.wait_for_quorum(0, federation.prepare)
    federation.prepared.clear()
    for site in "ABC":
        federation.leave(site)
    federation.join("A")
    federation.join("B", instance="second")
    assert federation.site("B").is_restarted
    assert _names(participation.wait_for_quorum(0, federation.prepare)) == ["A", "B"]
    assert federation.prepared == ["B"]
    assert not federation.site("B").is_restarted
    assert federation.taken_in == [SiteTakenIn(site="B", round=0)]


def test_a_site_that_missed_a_round_is_prepared_for_the_next() -> None:
    federation = Federation("A", "B", "C")
    participation = federation.participation(2)
    participation.wait_for_quorum(0, federation.prepare)
    federation.prepared.clear()
    for site in "AB":
        participation.has_model(federation.site(site), 1)
    assert _names(participation.wait_for_quorum(1, federation.prepare)) == ["A", "B", "C"]
    assert federation.prepared == ["C"]
    assert federation.taken_in == [SiteTakenIn(site="C", round=1)]


def test_a_node_that_is_restarted_while_others_are_prepared_does_not_count_as_prepared() -> None:
    federation = Federation("A", "B", "C")
    prepared_a = threading.Event()

    def prepare(site: Site) -> None:
        federation.prepare(site)
        if federation.prepared.count("A") > 1:
            return
        if site.name == "A":
            prepared_a.set()
        elif site.name == "B":
            assert prepared_a.wait(60)
            federation.leave("A")
            federation.join("A", instance="second")

    sites = federation.participation(3).wait_for_quorum(0, prepare)
    assert not any(site.is_restarted for site in sites)
    assert federation.prepared.count("A") == 2


def test_a_site_that_cannot_be_prepared_is_left_out_and_let_go() -> None:
    federation = Federation("A", "B", "C")
    participation = federation.participation(2)

    def prepare(site: Site) -> None:
        if site.name == "C":
            raise FednnUNetError("its plans have changed since the training started")

    assert _names(participation.wait_for_quorum(3, prepare)) == ["A", "B"]
    reason = "its plans have changed since the training started"
    assert federation.events == [SiteLeftOut(site="C", round=3, reason=reason)]
    assert federation.nodes["C"].has_left.wait(60)
    assert federation.nodes["C"].farewell == f"This site has failed: {reason}."
    assert participation.take_left_out() == {"C": reason}
    assert participation.take_left_out() == {}


@pytest.mark.parametrize(
    ("failure", "is_let_go"),
    [
        (SiteFailure("B", "disk is full"), True),
        (SiteLost("B", "its connection broke"), False),
        (SiteLate("B", "it did not finish within 5 s"), False),
    ],
)
def test_a_site_that_was_left_out_is_prepared_again_unless_it_has_failed_and_was_let_go(
    failure: SiteFailure, is_let_go: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation("A", "B", "C")
    participation = federation.participation(2)
    participation.wait_for_quorum(0, federation.prepare)
    federation.prepared.clear()
    dismissed: list[tuple[str, str]] = []
    monkeypatch.setattr(federation, "dismiss", lambda site, reason: dismissed.append((site.name, reason)))
    participation.leave_out([failure], 1)
    assert federation.events == [SiteLeftOut(site="B", round=1, reason=failure.reason)]
    assert dismissed == [("B", f"This site has failed: {failure.reason}.")] * is_let_go
    assert participation.take_left_out() == {"B": failure.reason}
    assert _names(participation.wait_for_quorum(0, federation.prepare)) == ["A", *["B"] * (not is_let_go), "C"]
    assert federation.prepared == ["B"] * (not is_let_go)


def test_nobody_waits_for_a_node_that_cannot_be_started_again() -> None:
    federation = Federation("A", "B", "C", nodes_return=False)
    participation = federation.participation(needed=2)
    assert [site.name for site in participation.wait_for_quorum(0, federation.prepare)] == ["A", "B", "C"]
    participation.leave_out([SiteFailure("B", "no memory")], 1)
    assert [site.name for site in participation.wait_for_quorum(0, federation.prepare)] == ["A", "C"]
    participation.leave_out([SiteFailure("C", "no memory")], 1)
    with pytest.raises(FednnUNetError, match="Without B, C there are fewer sites than --min_clients"):
        participation.wait_for_quorum(0, federation.prepare)
    assert not [event for event in federation.events if isinstance(event, SitesAwaited)]
