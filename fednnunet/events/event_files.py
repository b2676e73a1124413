"""Reads and writes event files, one JSON line per event."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from fednnunet.events.events import (
    ANY_EVENT,
    Event,
    Finished,
    FoldValidated,
    GainTold,
    ModelExported,
    RoundCompleted,
    SharingAgreed,
    SitesEvaluated,
    StageStarted,
    WorkProgressed,
)
from fednnunet.files import ends_within_line

EVENTS = "events.jsonl"
"""The file in a run folder with all events of the run, also of those before the coordinator was started again."""

logger = logging.getLogger(__name__)

_WORK_SECONDS = 1.0
_RESULTS = (RoundCompleted, FoldValidated, GainTold, ModelExported, SitesEvaluated, Finished)


class EventFile:
    """Appends events to a file, so that another process can follow a run.

    Errors never stop the run: the first one is logged. A partial line, left by a full disk or a killed process, is
    terminated before the next event, and readers skip it.

    Parameters
    ----------
    path
        The file; it is made, with its folder, when there is something to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number: int | None = None
        self._is_torn = True
        self._has_complained = False

    def emit(self, event: Event) -> None:
        """Write `event`, visible to readers at once."""
        try:
            self._write(event.to_json().encode() + b"\n")
        except OSError as error:
            if not self._has_complained:
                self._has_complained = True
                logger.warning(
                    "Events cannot be written to %s (%s); the run continues.",
                    self._path,
                    error.strerror or error,
                )

    def clear(self) -> None:
        """Remove the file, so that the next event starts a new one; readers of the old one keep it."""
        self.close()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be replaced (%s).", self._path, error.strerror or error)

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def _write(self, line: bytes) -> None:
        if self._number is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._number = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._is_torn = ends_within_line(self._number)
        data = b"\n" + line if self._is_torn else line
        self._is_torn = True  # until all is written
        while data:
            data = data[os.write(self._number, data) :]
        self._is_torn = False


class RunFile:
    """Keeps the events of a run in its folder: after those of the run that it continues, or else in their place.

    What is there is replaced when the run has really begun, not by one that is refused because of a training that is
    not finished, or that only looks at a model, nor by the training of another fold of the same networks. Of reports of
    work, which are many, it keeps one a second and the last, if they are news.

    Parameters
    ----------
    path
        The file.
    continues
        Whether the run goes on with what is there in any case.
    begins
        Tells the event with which a run begins anew, among those before the first result.
    clock
        Seconds.
    """

    def __init__(
        self,
        path: Path,
        continues: bool,
        begins: Callable[[Event], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._file = EventFile(path)
        self._begins = begins
        self._clock = clock
        self._waiting: list[Event] | None = None if continues else []
        self._held: WorkProgressed | None = None
        self._last_work: WorkProgressed | None = None
        self._next_work = -math.inf

    def emit(self, event: Event) -> None:
        """Keep `event`."""
        if self._waiting is None:
            self._keep(event)
            return
        self._waiting.append(event)
        if self._begins(event):
            if not _add_a_fold(self._waiting, read_events(self._path)):
                self._file.clear()
            self._go_on()
        elif isinstance(event, _RESULTS):
            self._go_on()

    def close(self) -> None:
        """Keep what has been held back, and close the file."""
        self._keep_held()
        self._file.close()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for event in waiting:
            self._keep(event)

    def _keep(self, event: Event) -> None:
        if not isinstance(event, WorkProgressed):
            self._keep_held()
        elif event == self._last_work:
            self._held = None
            return
        elif self._clock() < self._next_work:
            self._held = event
            return
        else:
            self._held, self._last_work, self._next_work = None, event, self._clock() + _WORK_SECONDS
        self._file.emit(event)

    def _keep_held(self) -> None:
        if self._held is not None:
            self._file.emit(self._held)
            self._held, self._last_work = None, self._held


def begins_planning(event: Event) -> bool:
    """Return whether a run begins that extracts fingerprints or plans."""
    return isinstance(event, StageStarted)


def begins_training(event: Event) -> bool:
    """Return whether a run begins that trains."""
    return isinstance(event, StageStarted) and event.stage == "training"


def _add_a_fold(events: Sequence[Event], kept: Sequence[Event]) -> bool:
    """Return whether a training that has just begun is that of another fold, at the same sites with equal networks."""
    sharing = _last_sharing(events)
    return sharing is not None and sharing == _last_sharing(kept) and not _folds(events) & _folds(kept)


def _last_sharing(events: Sequence[Event]) -> SharingAgreed | None:
    return next((event for event in reversed(events) if isinstance(event, SharingAgreed)), None)


def _folds(events: Sequence[Event]) -> set[str | None]:
    return {event.fold for event in events if isinstance(event, StageStarted) and event.stage == "training"}


class EventReader:
    """Reads the events that another process appends to a file.

    The file may not exist yet, and may be replaced. An incomplete line is left for the next call; an invalid one is
    skipped.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    beginnings
        How often a file has been read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.beginnings = 0
        self._path = path
        self._file_number = 0
        self._offset = 0

    def new_events(self) -> Iterator[Event]:
        """Yield the events that were appended since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._file_number or status.st_size < self._offset:
                self._file_number, self._offset = status.st_ino, 0
                self.beginnings += 1
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                try:
                    event = ANY_EVENT.validate_json(line)
                except ValidationError as error:
                    logger.debug("A line of %s is not an event: %s", self._path, error)
                    continue
                yield event


def read_events(path: Path) -> list[Event]:
    """Return the events in a file, an empty list if it does not exist."""
    return list(EventReader(path).new_events())
