"""Runs long work in the background while a node keeps answering, with progress and cancellation."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Result = TypeVar("Result")

_ANSWER_WITHIN_SECONDS = 1.0
"""How long the coordinator waits to hear how far work is."""


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
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        if worker is None:
            threading.Thread(target=self._run, name="fednnunet-work", daemon=True).start()
        else:
            worker.submit(self._run)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the work has ended, but not longer than this; return whether it has."""
        return self._ended.wait(seconds)

    def result(self) -> Result:
        """Return the result of finished work, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _run(self) -> None:
        try:
            self.tracker.check()
            self._result = self._work(self.tracker)
        except BaseException as error:  # whatever it is, who waits for the result shall hear of it
            self._error = error
        finally:
            self._ended.set()


class StillWorking(Exception):  # noqa: N818, nothing went wrong
    """The answer is not there yet; whoever asks again will get it.

    Attributes
    ----------
    tracker
        Tells how far it is.
    """

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker


class Replies(Generic[Result]):
    """Works out the answer to each question once, however often it is asked.

    A question that takes longer is asked again until the answer is there, over a new connection too if the old one has
    broken; another question means that nobody waits for the last one any more, and its work is stopped.

    Parameters
    ----------
    worker
        Does the work; one of its own if not given.
    """

    def __init__(self, worker: Submits | None = None) -> None:
        self._worker = Worker() if worker is None else worker
        self._question: str | None = None
        self._work: Background[Result] | None = None
        self._given_up: Background[Result] | None = None

    @property
    def is_undisturbed(self) -> bool:
        """Whether no work is still on its way to an end that nobody waits for."""
        return self._given_up is None or self._given_up.wait(0)

    def reply(self, question: str, answer: Callable[[Tracker], Result]) -> Result:
        """Return the answer to a question, or raise what `answer` raised.

        Parameters
        ----------
        question
            Identifies the question.
        answer
            Works out the answer.

        Raises
        ------
        StillWorking
            If the answer is not there within a second.
        """
        if self._work is None or question != self._question:
            self.stop()
            self._given_up = self._work
            self._question, self._work = question, Background(answer, self._worker)
        if not self._work.wait(_ANSWER_WITHIN_SECONDS):
            raise StillWorking(self._work.tracker)
        return self._work.result()

    def afterwards(self, work: Callable[[Tracker], None]) -> Background[None]:
        """Do `work` once the answer that is being worked out is there, and before the next one."""
        return Background(work, self._worker)

    def stop(self, seconds: float = 0.0) -> None:
        """Have the work stopped, and wait for that, but not longer than this."""
        if self._work is not None:
            self._work.tracker.stop()
            self._work.wait(seconds)
