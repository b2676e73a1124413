"""Watching the processes of a simulated federation until they are done, one fails, or somebody ends them."""

import logging
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fednnunet.events.event_files import EventReader
from fednnunet.launcher.groups import GRACE_SECONDS, Watchdog
from fednnunet.launcher.processes import (
    Exited,
    Happening,
    Happenings,
    Interrupted,
    Line,
    Process,
    is_problem,
    stop_all,
)
from fednnunet.report.formats import duration
from fednnunet.report.live import LiveProgress
from fednnunet.report.progress import shows_live

SEPARATOR = " | "
COORDINATOR_STYLE = "bold"
SITE_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")

_EVENT_SECONDS = 0.25
_LINES_AT_ONCE = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    Parameters
    ----------
    after_failure
        For the others to end by themselves when a process has failed: they usually report the same cause.
    at_the_end
        For the nodes to end after the coordinator, or the other way round.
    to_stop
        For a process that was asked to stop, before it is killed.
    """

    after_failure: float = 5.0
    at_the_end: float = 30.0
    to_stop: float = GRACE_SECONDS


def run_together(
    coordinator: Process,
    nodes: Sequence[Process],
    console: Console,
    progress_file: Path | None = None,
    patience: Patience | None = None,
    expendable: int = 0,
    quiet: bool = False,
) -> int:
    """Start the processes, show what they say, and end all of them when one fails.

    None of them, and nothing that they have started, is left when this returns or raises.

    Parameters
    ----------
    coordinator
        The process that the others need.
    nodes
        The processes of the sites.
    console
        Where to show what happens.
    progress_file
        File to which the coordinator appends its events; on a terminal they are shown live.
    patience
        Times to wait.
    expendable
        Nodes without which the coordinator can do.
    quiet
        Whether to show nothing of what nodes write but warnings and errors, and no live display. The coordinator, whose
        lines are all shown, must have been told itself.

    Returns
    -------
    int
        0 if all but those exited with 0, 1 if not, 128 + the signal's number if a signal ended the run.
    """
    return _Run(coordinator, nodes, console, progress_file, patience or Patience(), expendable, quiet).run()


class _Run:
    def __init__(
        self,
        coordinator: Process,
        nodes: Sequence[Process],
        console: Console,
        progress_file: Path | None,
        patience: Patience,
        expendable: int,
        quiet: bool = False,
    ) -> None:
        self._coordinator = coordinator
        self._processes = [coordinator, *nodes]
        self._console = console
        self._patience = patience
        self._expendable = expendable
        self._quiet = quiet
        self._happenings: Happenings = queue.SimpleQueue()
        self._groups: dict[Process, int] = {}
        self._exits: list[Exited] = []
        self._interrupted: Interrupted | None = None
        self._late: list[Process] = []
        width = max(len(process.name) for process in self._processes)
        styles = [COORDINATOR_STYLE, *(SITE_STYLES[index % len(SITE_STYLES)] for index in range(len(nodes)))]
        self._prefixes = {
            process: Text.assemble((f"{process.name:<{width}}{SEPARATOR}", style))
            for process, style in zip(self._processes, styles, strict=True)
        }
        self._progress: LiveProgress | None = None
        self._events: EventReader | None = None
        if progress_file is not None and shows_live(console) and not quiet:
            self._events = EventReader(progress_file)
            self._show_events(silent=True)  # those that an earlier run left in the file
        self._events_due = 0.0

    def run(self) -> int:
        begin = time.monotonic()
        with _signals_into(self._happenings, self._processes), Watchdog() as watchdog:
            try:
                with ExitStack() as display:
                    if self._events is not None:
                        # no history: the coordinator's own lines pass above, and they say the same
                        self._progress = display.enter_context(LiveProgress(self._console, history=False))
                    for process in self._processes:
                        process.start(self._happenings)
                        self._keep(process, watchdog)
                    self._follow(watchdog)
                    if self._events is not None:
                        self._show_events()
            finally:
                self._progress = None
                remaining = stop_all(self._processes, self._happenings, self._patience.to_stop)
                self._release(watchdog)
            self._show_lines(remaining)
        return self._conclude(time.monotonic() - begin)

    def _keep(self, process: Process, watchdog: Watchdog) -> None:
        if (group := process.group) is not None:
            watchdog.take(group)
            self._groups[process] = group

    def _release(self, watchdog: Watchdog) -> None:
        for process in [process for process in self._groups if process.group is None]:
            watchdog.release(self._groups.pop(process))

    def _follow(self, watchdog: Watchdog) -> None:
        """Follow the processes until all have ended, or it is time to end them."""
        deadline: float | None = None
        while len(self._exits) < len(self._processes):
            for happening in self._next(deadline):
                if isinstance(happening, Interrupted):
                    self._interrupted = happening
                    name = signal.Signals(happening.signum).name
                    self._say(f"{name}: stopping {len(self._processes)} processes (press again to kill them) …")
                    return
                if isinstance(happening, Exited):
                    self._exits.append(happening)
                    self._release(watchdog)
                    wait = self._patience_after(happening)
                    if wait is not None:
                        deadline = min(deadline or float("inf"), time.monotonic() + wait)
            if deadline is not None and time.monotonic() >= deadline:
                ended = {exited.process for exited in self._exits}
                self._late = [process for process in self._processes if process not in ended]
                return

    def _patience_after(self, exited: Exited) -> float | None:
        """Return how long the others may go on after the end of a process, ``None`` for as long as they want."""
        left = len(self._processes) - len(self._exits)
        if exited.status != 0:
            if self._can_do_without():
                self._say(f"{exited.process.name}: {describe_status(exited.status)}; the others continue …")
                return None
            if left:
                self._say(f"{exited.process.name}: {describe_status(exited.status)}; the run ends …")
            return self._patience.after_failure
        coordinator_ended = any(other.process is self._coordinator for other in self._exits)
        return self._patience.at_the_end if coordinator_ended or left == 1 else None

    def _can_do_without(self) -> bool:
        """Return whether the processes that have failed are nodes, and not too many."""
        failed = [exited.process for exited in self._exits if exited.status != 0]
        return self._coordinator not in failed and len(failed) <= self._expendable

    def _next(self, deadline: float | None) -> list[Happening]:
        """Show what has come; return what was no line, after a wait that is short enough for the display."""
        wait = _EVENT_SECONDS if self._events is not None else None
        if deadline is not None:
            wait = min(wait or float("inf"), max(0.0, deadline - time.monotonic()))
        happenings: list[Happening] = []
        try:
            happenings.append(self._happenings.get(timeout=wait))
            while len(happenings) < _LINES_AT_ONCE:
                happenings.append(self._happenings.get_nowait())
        except queue.Empty:
            pass
        # printed together: a live display is redrawn for each print
        self._show_lines([happening for happening in happenings if isinstance(happening, Line)])
        if self._events is not None and time.monotonic() >= self._events_due:
            self._show_events()
            self._events_due = time.monotonic() + _EVENT_SECONDS
        return [happening for happening in happenings if not isinstance(happening, Line)]

    def _show_lines(self, lines: Sequence[Line]) -> None:
        if self._quiet:
            lines = [line for line in lines if line.process is self._coordinator or is_problem(line.text)]
        if lines:
            texts = [self._prefixes[line.process] + Text.from_ansi(line.text) for line in lines]
            self._console.print(Text("\n").join(texts), soft_wrap=True)

    def _show_events(self, silent: bool = False) -> None:
        assert self._events is not None
        try:
            for event in self._events.new_events():
                if self._progress is not None and not silent:
                    self._progress.emit(event)
        except (OSError, ValueError) as error:  # what only is shown must not end a training
            _log.debug("An event could not be shown: %s", error)

    def _conclude(self, seconds: float) -> int:
        if self._interrupted is not None:
            self._say("All processes are stopped.")
            return 128 + self._interrupted.signum
        failed = [exited for exited in self._exits if exited.status != 0]
        if self._can_do_without() and not self._late:
            finished = len(self._processes) - len(failed)
            which = "All" if not failed else f"{finished} of"
            self._say(f"{which} {len(self._processes)} processes finished after {duration(seconds)}.")
            return 0
        shown: set[tuple[str, ...]] = set()
        for exited in failed:
            process = exited.process
            self._say(f"{process.name}: {describe_status(exited.status)}, see {process.log_path}", style="bold red")
            lines = tuple(process.errors or process.last_lines)
            for line in lines if lines not in shown else ("(the same as above)",):
                self._console.print(Text("  ") + Text.from_ansi(line), soft_wrap=True)
            shown.add(lines)
        if not failed:
            for process in self._late:
                self._say(
                    f"{process.name}: still running after the others had finished, and stopped, see {process.log_path}",
                    style="bold red",
                )
        return 1

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


def describe_status(status: int) -> str:
    """Return the exit status of a process in words; a negative one is the signal that ended it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    # nobody here sends this one to a process that still works
    cause = " (the machine's memory may have run out)" if name == "SIGKILL" else ""
    return f"killed by {name}{cause}"


@contextmanager
def _signals_into(happenings: Happenings, processes: Sequence[Process]) -> Iterator[None]:
    """Put the signals that ask a program to end into `happenings`; the second one kills the processes at once."""
    received = 0

    def take(signum: int, _: object) -> None:
        nonlocal received
        received += 1
        happenings.put(Interrupted(signum))
        if received > 1:  # from here, because the main thread may be blocked by its terminal
            for process in processes:
                process.signal(signal.SIGKILL)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # what is ignored stays so: nohup, or a shell's background job
            if signal.getsignal(signum) is not signal.SIG_IGN:
                previous[signum] = signal.signal(signum, take)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
