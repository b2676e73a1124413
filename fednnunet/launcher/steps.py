"""Federations one after the other: each is the command ``fednnunet run``, as a user would type it."""

import io
import logging
import queue
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import EVENTS, EventReader
from fednnunet.events.events import Event
from fednnunet.events.run_state import RunState
from fednnunet.launcher.groups import GRACE_SECONDS, Watchdog
from fednnunet.launcher.processes import Exited, Happenings, Line, Process, stop_all
from fednnunet.launcher.supervision import describe_status
from fednnunet.report.formats import duration, mean, number
from fednnunet.report.progress import shows_live

_POLL_SECONDS = 0.5
_ERROR = "Error: "
_STOP_SECONDS = GRACE_SECONDS + 5  # `run` itself gives its nodes GRACE_SECONDS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One ``fednnunet run``.

    Parameters
    ----------
    name
        What people call it.
    words
        The command line after ``fednnunet run``.
    logs
        Folder for its logs.
    environment
        Variables that are added to this process's.
    """

    name: str
    words: Sequence[str]
    logs: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """The file with all that it says."""
        return self.logs / "run.log"

    @property
    def events(self) -> Path:
        """The file in which the coordinator tells what happens."""
        return self.logs / EVENTS


class JobFailed(FednnUNetError):  # noqa: N818, named for what has happened
    """A job has ended without success.

    Parameters
    ----------
    job
        The job.
    status
        How it ended, in words.
    reason
        The error that it told; an empty string if it said nothing.
    """

    def __init__(self, job: Job, status: str, reason: str) -> None:
        super().__init__(f"{job.name} failed ({status}): its log is {job.log}.")
        self.job = job
        self.reason = reason or status


class Steps:
    """Shows steps: a spinner while one goes on, and one line when it is done.

    Parameters
    ----------
    console
        Where to show them.
    verbose
        Also show what the federations say.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose

    @contextmanager
    def step(self, title: str) -> Iterator["Step"]:
        """Show that what follows is the step `title`, and, when it is done, how long it took."""
        begin = time.monotonic()
        live = shows_live(self._console) and not self._verbose
        if live:
            with self._console.status(escape(title)) as status:
                yield Step(title, self._console, status, verbose=False)
        else:
            self._console.print(Text(f"{title} …"), soft_wrap=True)
            yield Step(title, self._console, None, verbose=self._verbose)
        done = Text.assemble(("✓ ", "green"), title, (f"  {duration(time.monotonic() - begin)}", "dim"))
        self._console.print(done, soft_wrap=True)


class Step:
    """One step, while it goes on; made by `Steps.step`."""

    def __init__(self, title: str, console: Console, status: Status | None, *, verbose: bool) -> None:
        self._title = title
        self._console = console
        self._status = status
        self._verbose = verbose

    def say(self, detail: str) -> None:
        """Show how far the step is, if there is a spinner to show it beside."""
        if self._status is not None:
            self._status.update(escape(f"{self._title}: {detail}"))

    def run(
        self, *jobs: Job, done: Callable[[Job], None] = lambda job: None, waiting: Callable[[], None] = lambda: None
    ) -> None:
        """Run `jobs` at the same time and wait for all.

        No process of them is left when this returns or raises, also if this process is interrupted or killed.

        Parameters
        ----------
        jobs
            What to run.
        done
            Is called with each job as soon as it has ended well.
        waiting
            Is called again and again meanwhile.

        Raises
        ------
        JobFailed
            If one fails; the others are stopped then.
        """
        happenings: Happenings = queue.SimpleQueue()
        processes = {Process(job.name, _command(job), job.log, job.environment): job for job in jobs}
        rounds = [_Rounds(job) for job in jobs]
        groups: dict[Process, int] = {}
        with Watchdog() as watchdog:
            try:
                for process, job in processes.items():
                    job.logs.mkdir(parents=True, exist_ok=True)
                    process.start(happenings)
                    if (group := process.group) is not None:
                        watchdog.take(group)
                        groups[process] = group
                running = len(processes)
                while running:
                    happening = _next(happenings)
                    if isinstance(happening, Line) and self._verbose:
                        self._console.print(Text.from_ansi(happening.text), soft_wrap=True)
                    elif isinstance(happening, Exited):
                        running -= 1
                        if (ended := groups.pop(happening.process, None)) is not None:
                            watchdog.release(ended)
                        if happening.status != 0:
                            raise self._failure(happening, processes[happening.process])
                        done(processes[happening.process])
                    waiting()
                    if self._status is not None and happening is None:
                        self.say(", ".join(filter(None, (of_job.text() for of_job in rounds))))
            finally:
                stop_all(processes, happenings, _STOP_SECONDS)

    def _failure(self, exited: Exited, job: Job) -> JobFailed:
        lines = [Text.from_ansi(line) for line in exited.process.last_lines]
        if not self._verbose:
            for line in lines:
                self._console.print(Text("  ") + line, soft_wrap=True)
        return JobFailed(job, describe_status(exited.status), _first_error([line.plain for line in lines]))


def run_job(job: Job, on_event: Callable[[Event], None]) -> None:
    """Run a job, show nothing of it, and call `on_event` with each of its events.

    Raises
    ------
    FednnUNetError
        If it fails: the error that it told, and where its log is.
    """
    reader = EventReader(job.events)

    def tell() -> None:
        for event in reader.new_events():
            on_event(event)

    try:
        Step(job.name, Console(file=io.StringIO()), None, verbose=False).run(job, waiting=tell)
    except JobFailed as error:
        raise FednnUNetError(f"{error.reason.rstrip('.')} (its log is {job.log}).") from error
    finally:
        tell()


class _Rounds:
    """How far the training of one job is, from the events of its coordinator."""

    def __init__(self, job: Job) -> None:
        self._name = job.name
        self._events = EventReader(job.events)
        self._run = RunState()

    def text(self) -> str:
        """Return how far it is, in a few words; an empty string before the first round."""
        try:
            for event in self._events.new_events():
                self._run.take(event)
        except (OSError, ValueError) as error:  # what only is shown must not end what goes on
            _log.debug("An event could not be shown: %s", error)
        last = self._run.last_round
        if last is None:
            return ""
        dice = number(mean(report.mean_dice for report in last.sites.values()), 2)
        return f"{self._name} round {last.round}/{last.rounds} (pseudo Dice {dice})"


def _first_error(lines: Sequence[str]) -> str:
    """Return the first error that the last `lines` tell of, without the name of the process that stands before it."""
    told = [line.partition(_ERROR)[2].strip() for line in lines if _ERROR in line]
    return told[0] if told else ""


def _command(job: Job) -> list[str]:
    return [sys.executable, "-m", "fednnunet", "run", *job.words, "--log_dir", str(job.logs)]


def _next(happenings: Happenings) -> object:
    try:
        return happenings.get(timeout=_POLL_SECONDS)
    except queue.Empty:
        return None
