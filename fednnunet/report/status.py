"""Keeps the state of a training in a file, which ``fednnunet status`` shows."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fednnunet.errors import FednnUNetError
from fednnunet.events.events import (
    Contact,
    Event,
    RoundCompleted,
    SiteLeftOut,
    StageStarted,
    UpdateOutOfLine,
)
from fednnunet.events.run_state import RunState
from fednnunet.files import replacing
from fednnunet.report.formats import duration, number, printable
from fednnunet.report.standing import headline
from fednnunet.schema import Message

STATUS = "status.json"

_WRITE_SECONDS = 5.0
_SILENT_SECONDS = 30.0
_KEPT_FAILURES = 100
_SHOWN_FAILURES = 8
_KEPT_OUT_OF_LINE = 100
_SHOWN_OUT_OF_LINE = 4


class Failure(Message):
    """A site was left out, at a time in seconds since 1970."""

    site: str
    round: int
    reason: str
    at: float


class Status(Message):
    """State of a training; times in seconds since 1970."""

    title: str = "waiting for sites"
    round: int = 0
    rounds: int | None = None
    remaining: float | None = Field(default=None, description="seconds until the last round is done, as of `updated`")
    sites: dict[str, Contact] = Field(default_factory=dict)
    dice: dict[str, float | None] = Field(default_factory=dict, description="last mean pseudo Dice of each site")
    awaited: list[str] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list, description="the last ones, oldest first")
    number_of_failures: int = 0
    out_of_line: list[UpdateOutOfLine] = Field(
        default_factory=list, description="the last updates that were far out of line with the others, oldest first"
    )
    number_out_of_line: int = 0
    ended: str | None = Field(default=None, description="how the coordinator ended")
    updated: float = 0.0


class StatusFile:
    """Keeps ``status.json`` up to date, in a thread of its own, until `end`.

    Parameters
    ----------
    path
        The file.
    contacts
        Returns the sites, by name.
    """

    def __init__(self, path: Path, contacts: Callable[[], Mapping[str, Contact]]) -> None:
        self._path = path
        self._contacts = contacts
        self._run = RunState()
        self._failures: list[Failure] = []
        self._done_at: float | None = None
        self._how_ended: str | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._keep_writing, name="fednnunet-status", daemon=True).start()

    def emit(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            self._take(event)
        self._write()

    def end(self, how: str) -> None:
        """Write for the last time."""
        self._ended.set()
        with self._lock:
            self._done_at, self._how_ended = None, how
        self._write()

    def _take(self, event: Event) -> None:
        self._run.take(event)
        if isinstance(event, StageStarted | RoundCompleted):
            remaining = self._run.remaining
            self._done_at = None if remaining is None else time.time() + remaining
        elif isinstance(event, SiteLeftOut):
            failure = Failure(site=event.site, round=event.round, reason=event.reason, at=time.time())
            self._failures.append(failure)

    def _status(self, now: float) -> Status:
        run = self._run
        out_of_line = [trouble.event for trouble in run.troubles if isinstance(trouble.event, UpdateOutOfLine)]
        return Status(
            title=headline(run),
            round=0 if run.fold is None else run.fold.done,
            rounds=None if run.fold is None else run.fold.rounds,
            remaining=None if self._done_at is None else max(0.0, self._done_at - now),
            sites=dict(self._contacts()),
            dice=run.dice,
            awaited=[] if run.awaited is None or self._how_ended is not None else run.awaited.sites,
            failures=self._failures[-_KEPT_FAILURES:],
            number_of_failures=len(self._failures),
            out_of_line=out_of_line[-_KEPT_OUT_OF_LINE:],
            number_out_of_line=len(out_of_line),
            ended=self._how_ended,
            updated=now,
        )

    def _keep_writing(self) -> None:
        while not self._ended.wait(_WRITE_SECONDS):
            self._write()

    def _write(self) -> None:
        with self._lock:
            status = self._status(time.time())
            try:
                with replacing(self._path) as temporary:
                    temporary.write_text(status.to_json(), encoding="utf-8")
            except OSError:
                pass  # a full disk is told by what must be kept; this is only for looking at


def read_status(run_dir: Path) -> Status:
    """Return the state of the training that is kept in a run folder.

    Raises
    ------
    FednnUNetError
        If there is none.
    """
    path = run_dir / STATUS
    if not path.is_file():
        raise FednnUNetError(f"{run_dir} is not a run folder: it has no {STATUS}; give the coordinator's --run_dir.")
    return Status.from_json(path.read_text(encoding="utf-8"))


def status_screen(status: Status, now: float) -> RenderableType:
    """Return one screen about a training.

    Parameters
    ----------
    status
        What is known of it.
    now
        Seconds since 1970.
    """
    age = now - status.updated
    lines: list[RenderableType] = []
    head = printable(status.title)
    head.stylize("bold")
    if status.rounds is not None:
        head.append(f" · round {status.round}/{status.rounds}")
    if status.remaining is not None and status.round < (status.rounds or 0):
        head.append(f" · ETA {duration(max(0.0, status.remaining - age))}")
    lines.append(head)
    if status.ended is not None:
        lines.append(printable(f"The coordinator has ended: {status.ended}"))
    elif age > _SILENT_SECONDS:
        lines.append(
            Text(f"The coordinator has not been running for {duration(age)}: start it with --c.", style="bold red")
        )
    elif status.awaited:
        lines.append(printable(f"Waiting for {', '.join(status.awaited)}"))
    asked = [site for site, contact in status.sites.items() if contact.waits_for_approval]
    if asked and status.ended is None:
        lines.append(printable(f"Waiting for approval at {', '.join(asked)}"))
    table = Table()
    for column in ("site", "connected", "last contact", "last pseudo Dice"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for site, contact in status.sites.items():
        ago = f"{duration(max(0.0, now - contact.at))} ago"
        table.add_row(printable(site), "yes" if contact.connected else "no", ago, number(status.dice.get(site), 4))
    lines.append(table)
    lines.append(Text(f"Failures so far: {status.number_of_failures}"))
    for failure in status.failures[-_SHOWN_FAILURES:]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.at))
        lines.append(printable(f"  {when} · round {failure.round} · {failure.site}: {failure.reason}"))
    if status.number_out_of_line:
        lines.append(Text(f"Outlier updates so far: {status.number_out_of_line}"))
    for event in status.out_of_line[-_SHOWN_OUT_OF_LINE:]:
        lines.append(printable(f"  round {event.round} · {event.site}: its update {event.finding}"))
    return Group(*lines)
