"""Long work in the background: how it ends."""

import threading

import pytest

from fednnunet.background import Background, Stopped, Tracker, Worker

PATIENT, AT_ONCE = 60.0, 0.0


class Job:
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
    jobs = [Job(order, name) for name in "abc"]
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
    first, never, last = (Job(order, name) for name in ("first", "never", "last"))
    works = [Background(work, worker) for work in (first, fail, never, last)]
    works[2].tracker.stop()
    for job in (first, never, last):
        job.may_end.set()
    assert works[3].wait(PATIENT)
    assert order == ["first", "last"]
    with pytest.raises(Stopped):
        works[2].result()
