"""Work that takes long, beside a node that goes on answering."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Stopped(Exception):  # noqa: N818, nothing went wrong
    """The work was given up because the node is leaving."""


class Tracker:
    """Through which work tells how far it is, and learns that it shall stop."""

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


class Background(Generic[Result]):
    """Runs `work` in a thread of its own, which does not keep the process from ending."""

    def __init__(self, work: Callable[[Tracker], Result]) -> None:
        self.tracker = Tracker()
        self._work = work
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="fednnunet-work", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until the work has ended, but not longer than this; return whether it has."""
        return self._ended.wait(seconds)

    def result(self) -> Result:
        """Return what came of the work, or raise what ended it; only once it has ended."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _run(self) -> None:
        try:
            self._result = self._work(self.tracker)
        except BaseException as error:  # whatever it is, the node's main thread shall hear of it
            self._error = error
        finally:
            self._ended.set()
