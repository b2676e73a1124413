"""Runs long work in the background while a node keeps answering, with progress and cancellation."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, Protocol, TypeVar

Result = TypeVar("Result")


class Stopped(Exception):  # noqa: N818, nothing went wrong
    """The work was cancelled: the node is leaving, or nobody needs the result any more."""


class Tracker:
    """Progress and cancellation token for a long-running task."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask the work to stop soon."""
        self._stopping.set()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the work shall stop."""
        self._stopping.wait(seconds)

    def check(self) -> None:
        """Raise `Stopped` if the work shall stop."""
        if self._stopping.is_set():
            raise Stopped


class Submits(Protocol):
    """Does one job after the other."""

    def submit(self, job: Callable[[], None]) -> None:
        """Do `job`, which must not raise, after those that were submitted before."""


class Worker:
    """One thread that does one job after the other, and does not keep the process from ending.

    torch keeps threads of its own for each thread that computes, so a node trains in one only.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="fednnunet-worker", daemon=True).start()

    def submit(self, job: Callable[[], None]) -> None:
        """Do `job`, which must not raise, after those that were submitted before."""
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            self._jobs.get()()


class Background(Generic[Result]):
    """Runs `work` in a thread of its own, which does not keep the process from ending, or in that of a worker."""

    def __init__(self, work: Callable[[Tracker], Result], worker: Submits | None = None) -> None:
        self.tracker = Tracker()
        self._work = work
        self._future: Future[Result] = Future()
        if worker is None:
            threading.Thread(target=self._run, name="fednnunet-work", daemon=True).start()
        else:
            worker.submit(self._run)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the work has ended, but not longer than this; return whether it has."""
        return bool(wait([self._future], seconds).done)

    def result(self) -> Result:
        """Wait until the work has finished, and return its result, or raise its error."""
        return self._future.result()

    def _run(self) -> None:
        try:
            self.tracker.check()
            self._future.set_result(self._work(self.tracker))
        except BaseException as error:  # whatever it is, who waits for the result shall hear of it
            self._future.set_exception(error)
