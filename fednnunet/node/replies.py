"""Each answer of a node is worked out once, however often it is asked for."""

from collections.abc import Callable
from typing import Generic, TypeVar

from fednnunet.background import Background, Submits, Tracker, Worker

Result = TypeVar("Result")

_ANSWER_WITHIN_SECONDS = 1.0
"""How long the coordinator waits to hear how far work is."""


class StillWorking(Exception):  # noqa: N818, nothing went wrong
    """Raised while an answer is being worked out: ask again.

    Attributes
    ----------
    tracker
        Tells how far it is.
    """

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker


class Replies(Generic[Result]):
    """Caches the answer to the last question.

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
