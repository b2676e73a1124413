"""Long work beside a node that goes on answering: how it ends, and that no question is worked out twice."""

import threading

import pytest

from fednnunet.background import Background, Replies, StillWorking, Stopped, Tracker, Worker

PATIENT, AT_ONCE = 60.0, 0.0


def _answer_within(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.background._ANSWER_WITHIN_SECONDS", seconds)


class _Job:
    """Work that can be watched: says when it begins, and ends when it may."""

    def __init__(self, order: list[str], name: str, *, heeds_stop: bool = False) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        self._order, self._name, self._heeds_stop = order, name, heeds_stop

    def __call__(self, tracker: Tracker) -> str:
        self.thread = threading.current_thread()
        self.begun.set()
        try:
            while self._heeds_stop:
                tracker.pause(PATIENT)
                tracker.check()
            assert self.may_end.wait(PATIENT)
        except Stopped:
            self._order.append(f"{self._name} stopped")
            raise
        self._order.append(self._name)
        return self._name

    def done(self, tracker: Tracker) -> None:
        self(tracker)


def test_work_goes_on_while_others_ask_how_far_it_is() -> None:
    may_end = threading.Event()

    def work(tracker: Tracker) -> str:
        tracker.total, tracker.done = 3, 2
        may_end.wait()
        return "done"

    background = Background(work)
    assert not background.wait(0.01)
    may_end.set()
    assert background.wait(60)
    assert background.result() == "done"
    assert (background.tracker.done, background.tracker.total) == (2, 3)


def test_what_goes_wrong_is_raised_where_the_result_is_wanted() -> None:
    def work(tracker: Tracker) -> str:
        raise ValueError("wrong")

    background = Background(work)
    assert background.wait(60)
    with pytest.raises(ValueError, match="wrong"):
        background.result()


def test_work_can_be_stopped() -> None:
    def work(tracker: Tracker) -> None:
        while True:
            tracker.pause(60)
            tracker.check()

    background = Background(work)
    background.tracker.stop()
    assert background.wait(60)
    with pytest.raises(Stopped):
        background.result()


def test_a_worker_does_one_job_after_the_other_in_one_thread() -> None:
    worker, order = Worker(), list[str]()
    jobs = [_Job(order, name) for name in "abc"]
    works = [Background(job, worker) for job in jobs]
    assert jobs[0].begun.wait(PATIENT)
    assert not jobs[1].begun.is_set()
    for job in reversed(jobs):
        job.may_end.set()
    assert all(work.wait(PATIENT) for work in works)
    assert order == ["a", "b", "c"]
    assert len({job.thread for job in jobs}) == 1


def test_a_worker_goes_on_after_work_that_failed_or_was_stopped_before_it_began() -> None:
    def fail(tracker: Tracker) -> str:
        raise ValueError("wrong")

    worker, order = Worker(), list[str]()
    first, never, last = (_Job(order, name) for name in ("first", "never", "last"))
    works = [Background(work, worker) for work in (first, fail, never, last)]
    works[2].tracker.stop()
    for job in (first, never, last):
        job.may_end.set()
    assert works[3].wait(PATIENT)
    assert order == ["first", "last"]
    with pytest.raises(Stopped):
        works[2].result()


def test_a_question_that_is_asked_again_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Replies[str] = Replies()
    order = list[str]()
    job = _Job(order, "answer")
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
    first, second = _Job(order, "first", heeds_stop=True), _Job(order, "second")
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
    jobs = [_Job(order, name) for name in ("deaf", "given up", "wanted")]
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
    deaf, wanted = _Job([], "deaf"), _Job([], "wanted")
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
    first, saving, second = (_Job(order, name) for name in ("first", "saving", "second"))
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
    job = _Job(order, "work", heeds_stop=True)
    _answer_within(AT_ONCE, monkeypatch)
    with pytest.raises(StillWorking):
        replies.reply("1", job)
    assert job.begun.wait(PATIENT)
    replies.stop(PATIENT)
    assert order == ["work stopped"]
    with pytest.raises(Stopped):
        replies.reply("1", job)
