"""A site that is for ever at work does not hold up the others, whatever it was asked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fednnunet.channel.messages import Installed
from fednnunet.coordinator.site import SiteLate, SiteLost
from fednnunet.errors import FednnUNetError
from fednnunet.report.events import FoldValidated
from tests.coordinator.test_site import ANSWER, Node, _ask, _pending, _site
from tests.coordinator.training_federation import Trainer, pending, run_training

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
        assert "not done its work within 0.2" in events.left_out[0].reason


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
    assert str(federation.error).startswith(("Site A failed: it has not done its work", "A did not come back within"))
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
