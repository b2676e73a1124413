"""Forwards events to trackers in background threads, which can neither stop nor delay a training."""

import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from fednnunet.events.events import Event, FoldValidated, RoundCompleted, SitesEvaluated, StageStarted
from fednnunet.events.run_state import RunState
from fednnunet.report.trackers.scalars import scalars
from fednnunet.report.trackers.tracker import Opening, OpenTracker, Tracker

logger = logging.getLogger(__name__)

_Numbers: TypeAlias = tuple[dict[str, float], int]
_Order: TypeAlias = "Opening | _Numbers | None"

CLOSE_SECONDS = 45.0
"""Longest wait for unsent metrics at the end of a run."""


class TrackerSink:
    """Turns the events of a run into numbers, and hands them to trackers, each in a thread of its own.

    Parameters
    ----------
    folder
        The run folder.
    trackers
        What opens each tracker, by the name that people know.
    """

    def __init__(self, folder: Path, trackers: Sequence[tuple[str, OpenTracker]]) -> None:
        self._folder = folder
        self._workers = [_Worker(name, opener) for name, opener in trackers]
        self._run = RunState()
        self._fold: str | None = None

    def emit(self, event: Event) -> None:
        """Take an event; returns at once."""
        self._run.take(event)
        match event:
            case StageStarted(stage="training", fold=str(fold)):
                self._open(fold, event.first_round)
            case RoundCompleted() if self._fold is not None:
                self._order((scalars(event), event.round))
            case FoldValidated() | SitesEvaluated():
                if event.fold != self._fold:
                    self._open(event.fold, None)
                self._order((scalars(event), self._run.rounds_of(event.fold)))

    def close(self) -> None:
        """Close all trackers, but wait no longer than `CLOSE_SECONDS` for any of them."""
        self._order(None)
        for worker in self._workers:
            worker.wait(CLOSE_SECONDS)

    def _open(self, fold: str, first_round: int | None) -> None:
        self._fold = fold
        self._order(Opening(self._folder, fold, first_round))

    def _order(self, order: _Order) -> None:
        for worker in self._workers:
            worker.order(order)


class _Worker:
    """Works off what a tracker shall do; the first thing that goes wrong is the last one it tries."""

    def __init__(self, name: str, opener: OpenTracker) -> None:
        self._name = name
        self._opener = opener
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._tracker: Tracker | None = None
        self._has_failed = False
        self._thread = threading.Thread(target=self._work, name=f"fednnunet-{name}", daemon=True)
        self._thread.start()

    def order(self, order: _Order) -> None:
        if not self._has_failed:
            self._orders.put(order)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("%s did not accept all numbers within %g s; the rest is not sent.", self._name, seconds)

    def _work(self) -> None:
        try:
            while (order := self._orders.get()) is not None:
                self._carry_out(order)
            self._close()
        except Exception as error:  # whatever the tracker's own code raises
            self._has_failed = True
            logger.warning(
                "%s receives no more numbers (%s: %s); the training continues.", self._name, type(error).__name__, error
            )
            logger.debug("%s has failed", self._name, exc_info=error)

    def _carry_out(self, order: "Opening | _Numbers") -> None:
        if isinstance(order, Opening):
            self._close()
            self._tracker = self._opener(order)
        elif self._tracker is not None:
            self._tracker.log(*order)

    def _close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()
