"""No question is worked out twice, and its answer is there when it is asked again."""

import threading

import pytest

from fednnunet.background import Stopped, Tracker
from fednnunet.node.replies import Replies, StillWorking
from tests.test_background import AT_ONCE, PATIENT, Job


def _answer_within(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.node.replies._ANSWER_WITHIN_SECONDS", seconds)


def test_a_question_that_is_asked_again_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Replies[str] = Replies()
    order = list[str]()
    job = Job(order, "answer")
    _answer_within(AT_ONCE, monkeypatch)
    trackers = []
    for _ in range(2):
        with pytest.raises(StillWorking) as caught:
            replies.reply("1", job)
        trackers.append(caught.value.tracker)
    assert trackers[0] is trackers[1]
    job.may_end.set()
    _answer_within(PATIENT, monkeypatch)
    assert [replies.reply("1", job), replies.reply("1", job)] == ["answer", "answer"]
    assert order == ["answer"]


def test_a_question_that_failed_fails_in_the_same_way_when_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Replies[str] = Replies()
    asked = []

    def fail(tracker: Tracker) -> str:
        asked.append(tracker)
        raise ValueError("wrong")

    _answer_within(PATIENT, monkeypatch)
    errors = []
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong") as caught:
            replies.reply("1", fail)
        errors.append(caught.value)
    assert errors[0] is errors[1]
    assert len(asked) == 1


def test_a_new_question_stops_the_one_before_and_is_answered_in_the_same_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies: Replies[str] = Replies()
    order = list[str]()
    first, second = Job(order, "first", heeds_stop=True), Job(order, "second")
    _answer_within(AT_ONCE, monkeypatch)
    with pytest.raises(StillWorking):
        replies.reply("1", first)
    assert first.begun.wait(PATIENT)
    second.may_end.set()
    _answer_within(PATIENT, monkeypatch)
    assert replies.reply("2", second) == "second"
    assert order == ["first stopped", "second"]
    assert first.thread is second.thread
    assert first.thread is not threading.current_thread()


def test_a_question_that_is_given_up_before_its_turn_is_not_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Replies[str] = Replies()
    order = list[str]()
    jobs = [Job(order, name) for name in ("deaf", "given up", "wanted")]
    _answer_within(AT_ONCE, monkeypatch)
    for number, job in enumerate(jobs):
        with pytest.raises(StillWorking):
            replies.reply(str(number), job)
        assert jobs[0].begun.wait(PATIENT)
    for job in jobs:
        job.may_end.set()
    _answer_within(PATIENT, monkeypatch)
    assert replies.reply("2", jobs[2]) == "wanted"
    assert order == ["deaf", "wanted"]


def test_only_work_that_goes_on_although_nobody_wants_it_disturbs(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Replies[str] = Replies()
    assert replies.is_undisturbed
    deaf, wanted = Job([], "deaf"), Job([], "wanted")
    _answer_within(AT_ONCE, monkeypatch)
    with pytest.raises(StillWorking):
        replies.reply("1", deaf)
    assert deaf.begun.wait(PATIENT)
    assert replies.is_undisturbed
    with pytest.raises(StillWorking):
        replies.reply("2", wanted)
    assert not replies.is_undisturbed
    deaf.may_end.set()
    assert wanted.begun.wait(PATIENT)
    assert replies.is_undisturbed
    wanted.may_end.set()


def test_what_is_to_be_done_afterwards_is_done_between_two_answers_and_not_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies: Replies[str] = Replies()
    order = list[str]()
    first, saving, second = (Job(order, name) for name in ("first", "saving", "second"))
    _answer_within(AT_ONCE, monkeypatch)
    with pytest.raises(StillWorking):
        replies.reply("1", first)
    saved = replies.afterwards(saving.done)
    first.may_end.set()
    _answer_within(PATIENT, monkeypatch)
    assert replies.reply("1", first) == "first"  # does not wait for what comes afterwards
    _answer_within(AT_ONCE, monkeypatch)
    with pytest.raises(StillWorking):
        replies.reply("2", second)
    assert saving.begun.wait(PATIENT)
    assert not second.begun.is_set()
    saving.may_end.set()
    second.may_end.set()
    _answer_within(PATIENT, monkeypatch)
    assert replies.reply("2", second) == "second"
    assert saved.wait(0)
    saved.result()
    assert order == ["first", "saving", "second"]


def test_replies_that_are_stopped_wait_until_the_work_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Replies[str] = Replies()
    replies.stop(PATIENT)
    order = list[str]()
    job = Job(order, "work", heeds_stop=True)
    _answer_within(AT_ONCE, monkeypatch)
    with pytest.raises(StillWorking):
        replies.reply("1", job)
    assert job.begun.wait(PATIENT)
    replies.stop(PATIENT)
    assert order == ["work stopped"]
    with pytest.raises(Stopped):
        replies.reply("1", job)
