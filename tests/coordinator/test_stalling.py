"""A site that is for ever at work does not hold up the others, whatever it was asked."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.common import GetPropertiesIns as Question
from flwr.common import GetPropertiesRes as Reply
from flwr.common import Scalar

from fednnunet.cli.arguments import parse_server
from fednnunet.coordinator.federation import Federation
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.site import ANSWER_WITHIN_SECONDS, SiteLate, SiteLost
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import FoldValidated
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.protocol.messages import Installed
from fednnunet.security.authentication import Authenticator
from tests.coordinator.fake_node import OK
from tests.coordinator.test_site import ANSWER, Node, Step, _ask, _in_background, _pending, _site
from tests.coordinator.training_federation import Events, Trainer, pending, run_training

IMPATIENT = ("--rounds", "2", "--min_clients", "2", "--round_timeout", "0.2")


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.coordinator.site.ASK_EVERY_SECONDS", 0.01)


@pytest.mark.parametrize("kind", ["fit", "fetch in a round", "hand", "evaluate", "describe", "finish"])
def test_whatever_is_never_answered_two_others_complete_their_rounds(tmp_path: Path, kind: str) -> None:
    nodes = [Trainer("A"), Trainer("B"), Trainer("C")]
    slow = nodes[2]
    if kind == "fetch in a round":
        slow.instead["fetch"] = lambda body: (
            pending(body) if '"round":0' not in body else slow.honestly("fetch", body, b"")
        )
    else:
        slow.instead[kind] = pending
        slow.describes = True
    federation, events = run_training(tmp_path, nodes, *IMPATIENT)
    assert federation.error is None
    assert [event.round for event in events.rounds] == [1, 2]
    assert all({"A", "B"} <= set(event.sites) for event in events.rounds)
    if kind != "describe":  # which no round depends on
        assert {event.site for event in events.left_out} == {"C"}
        assert "not finish within 0.2" in events.left_out[0].reason


@pytest.mark.parametrize("kind", ["start", "share", "hand", "accept"])
def test_a_site_that_comes_back_and_never_gets_ready_does_not_hold_up_the_others(tmp_path: Path, kind: str) -> None:
    nodes = [Trainer("A"), Trainer("B"), Trainer("C")]
    run_training(tmp_path, nodes, *IMPATIENT, "--rounds", "3", sink=_Stop())
    again = [Trainer("A"), Trainer("B"), Trainer("C", **{kind: pending})]
    federation, events = run_training(tmp_path, again, *IMPATIENT, "--rounds", "3", "--c")
    assert federation.error is None
    assert [event.round for event in events.rounds] == [2, 3]
    assert all(list(event.sites) == ["A", "B"] for event in events.rounds)


@pytest.mark.parametrize("kind", ["offer", "start", "share", "fetch", "accept", "fit"])
def test_where_all_are_needed_the_wait_is_given_up_and_the_site_is_named(tmp_path: Path, kind: str) -> None:
    nodes = [Trainer("A", **{kind: pending}), Trainer("B")]
    federation, _ = run_training(tmp_path, nodes, "--rounds", "1", "--round_timeout", "0.2", "--give_up_after", "0.5")
    assert isinstance(federation.error, FednnUNetError)
    assert str(federation.error).startswith(("Site A failed: it did not finish", "A did not come back within"))
    assert nodes[1].farewell == str(federation.error)


def test_where_all_are_needed_a_validation_that_never_ends_is_given_up_once_others_have_ended_theirs(
    tmp_path: Path,
) -> None:
    nodes = [Trainer("A", finish=pending), Trainer("B")]
    federation, _ = run_training(tmp_path, nodes, "--rounds", "1", "--give_up_after", "0.2")
    assert str(federation.error).startswith("A did not finish nnU-Net's full validation within --give_up_after 0.2 s")
    assert "start" not in nodes[0].asked[nodes[0].asked.index("finish") :]  # it need not validate all over again
    again = [Trainer("A"), Trainer("B")]
    federation, events = run_training(tmp_path, again, "--rounds", "1", "--give_up_after", "3600", "--c")
    assert federation.error is None
    assert [sorted(event.sites) for event in events.seen if isinstance(event, FoldValidated)] == [["A", "B"]]


class _Stop:
    """Ends the coordinator, as a signal would, after the first round."""

    def emit(self, event: object) -> None:
        if type(event).__name__ == "RoundCompleted":
            raise KeyboardInterrupt


def test_only_the_time_counts_that_a_site_takes_for_itself() -> None:
    site = _site(Node(ANSWER, _pending(1), ANSWER, _pending(1), _pending(2)))
    site.allow(3600.0)
    _ask(site)
    _ask(site)
    site.allow(0.0)
    with pytest.raises(SiteLate, match="within 0 s"):
        _ask(site)


def test_a_question_from_before_ends_when_the_site_is_asked_for_something_else() -> None:
    site = _site(Node(_pending(1), ANSWER))
    with pytest.raises(SiteLate):
        site.ask("install", None, Installed, progress=lambda report: site.allow(None))


def test_a_site_that_says_at_once_that_it_is_at_work_is_not_asked_in_a_busy_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fednnunet.coordinator.site.ASK_EVERY_SECONDS", 3600.0)
    node = Node(_pending(1), _pending(2))
    site = _site(node)
    waits, wait_for = [], site._changed.wait_for

    def close_meanwhile(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if timeout is not None and timeout > 3000:
            waits.append(timeout)
            site.close()
        return wait_for(predicate, timeout)

    monkeypatch.setattr(site._changed, "wait_for", close_meanwhile)
    with pytest.raises(SiteLost):
        _ask(site)
    assert (len(node.asked), len(waits)) == (1, 1)


class _Trickling(Node):
    """A node whose answer comes a byte at a time: it is not there yet when the connection is given up.

    Attributes
    ----------
    allowed
        The seconds that it had for each answer.
    """

    def __init__(self, *steps: Step) -> None:
        super().__init__(*steps)
        self.allowed: list[float | None] = []
        self.is_asked, self.is_over = threading.Event(), threading.Event()

    def get_properties(self, ins: Question, timeout: float | None, group_id: int | None) -> Reply:
        self.allowed.append(timeout)
        self.is_asked.set()
        if ins.config["ask"] == "ping":
            assert self.is_over.wait(60)
        return super().get_properties(ins, timeout, group_id)


def test_an_answer_that_trickles_is_given_up_when_the_site_has_no_time_left() -> None:
    node = _Trickling(ANSWER, ANSWER, TimeoutError("not all of it is there"))
    site = _site(node)
    _ask(site)
    site.allow(3.0)
    _ask(site)
    site.allow(0.0)
    with pytest.raises(SiteLate):
        _ask(site)
    without, with_limit, none_left = node.allowed
    assert without == 60.0
    assert with_limit == 3.0 + ANSWER_WITHIN_SECONDS
    assert none_left == ANSWER_WITHIN_SECONDS


def test_a_connection_that_broke_is_awaited_no_longer_than_the_site_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    site = _site(Node())
    waits: list[float | None] = []
    monkeypatch.setattr(site._changed, "wait_for", lambda predicate, timeout=None: waits.append(timeout))
    site.lose_connection(str(site.connection and site.connection.cid))
    site.allow(3.0)
    with pytest.raises(SiteLost):
        _ask(site)
    assert waits == [3.0]


def test_a_question_does_not_wait_for_ever_behind_a_ping_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.coordinator.site.ANSWER_WITHIN_SECONDS", 0.01)
    node = _Trickling(ANSWER)
    site = _site(node)
    ping = _in_background(site.ping)
    assert node.is_asked.wait(60)
    site.allow(0.0)
    asked = _in_background(lambda: _ask(site))
    assert isinstance(asked.exception(10), SiteLate)
    node.is_over.set()
    ping.result(60)


def test_a_site_that_does_not_answer_a_ping_does_not_keep_the_others_from_hearing_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fednnunet.coordinator.registry._PING_SECONDS", 0.01)
    silent, other = _Trickling(ANSWER), _Pinged()
    registry = ClientRegistry(places=2)
    for node in (silent, other):
        registry.register(node)
        assert registry.admit(node, node.hello)
    registry.keep_in_touch()
    assert silent.is_asked.wait(60)
    assert all(other.pings.acquire(timeout=10) for _ in range(3))
    registry.close()
    silent.is_over.set()


class _Pinged(Node):
    """Site B, which answers pings."""

    def __init__(self) -> None:
        super().__init__()
        self.hello = self.hello.model_copy(update={"site": "B"})
        self.pings = threading.Semaphore(0)

    def get_properties(self, ins: Question, timeout: float | None, group_id: int | None) -> Reply:
        self.pings.release()
        return Reply(OK, {"body": "{}"})


def test_a_site_whose_old_node_does_not_answer_does_not_keep_others_from_being_admitted() -> None:
    arguments = parse_server(["train", "--num_clients", "2"]).coordinator
    federation = Federation(arguments, Events(), Authenticator(None, NO_CERTIFICATE))
    is_pinged, is_over = threading.Event(), threading.Event()

    def hang(body: str) -> dict[str, Scalar]:
        is_pinged.set()
        assert is_over.wait(60)
        return {"body": body}

    old, new, other = Trainer("A", ping=hang), Trainer("A"), Trainer("B")
    for node in (old, new, other):
        federation.registry.register(node)
    admitting = threading.Thread(target=federation._admission.admit_all, daemon=True)
    admitting.start()
    assert is_pinged.wait(60)
    assert federation.registry.wait_for(lambda: federation.registry.named("B") is not None, 10)
    federation.registry.close()
    is_over.set()
    admitting.join(60)
