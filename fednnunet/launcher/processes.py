"""The processes of a simulated federation: started, listened to, and ended with everything that they started."""

import logging
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeAlias

from fednnunet.errors import FednnUNetError
from fednnunet.launcher.groups import GRACE_SECONDS, end_groups, signal_group
from fednnunet.report.formats import WARNING

KEPT_LINES = 15
_CHUNK = 1 << 16
_CLOSE_SECONDS = 5.0

_ERROR = "Error:"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

_log = logging.getLogger(__name__)


class LineSplitter:
    r"""Cuts a stream of bytes into lines as a terminal would show them.

    A progress bar rewrites its line again and again after ``\r``; what counts is what stands there when the line ends.
    """

    def __init__(self) -> None:
        self._open = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Take more bytes and return the lines that they complete."""
        *complete, rest = (self._open + chunk).split(b"\n")
        self._open = _last_rewrite(rest, keep_return=True)  # a bar that runs for a week must not fill the memory
        return [_last_rewrite(line).decode("utf-8", "replace") for line in complete]

    def finish(self) -> list[str]:
        """Return the last line, if the stream ended within one."""
        line, self._open = _last_rewrite(self._open), b""
        return [line.decode("utf-8", "replace")] if line else []


def _last_rewrite(line: bytes, keep_return: bool = False) -> bytes:
    text = line.rstrip(b"\r")
    start = text.rfind(b"\r") + 1
    return line[start:] if keep_return else text[start:]


def is_problem(line: str) -> bool:
    """Return whether a line that one of our commands has written is a warning or an error."""
    return _COLOUR.sub("", line).startswith((_ERROR, WARNING))


@dataclass(frozen=True)
class Line:
    """A process has written a line."""

    process: "Process"
    text: str


@dataclass(frozen=True)
class Exited:
    """A process has ended, and all that it had started; no line of it follows.

    `status` is as `subprocess.Popen.returncode`: negative for a signal.
    """

    process: "Process"
    status: int


@dataclass(frozen=True)
class Interrupted:
    """The launcher was sent a signal that asks it to end."""

    signum: int


Happening: TypeAlias = Line | Exited | Interrupted
Happenings: TypeAlias = "queue.SimpleQueue[Happening]"  # unlike Queue, it may be filled from a signal handler


@dataclass(eq=False)
class Process:
    """One process in a group of its own, which gets all its signals from here and none from the terminal.

    Parameters
    ----------
    name
        What people call it: the name of a site, or ``coordinator``.
    command
        Program and arguments.
    log_path
        File that all its output is appended to, byte for byte.
    environment
        Variables that are added to the launcher's.
    description
        Where it runs, for people.
    """

    name: str
    command: Sequence[str]
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES), init=False)
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES), init=False)
    status: int | None = field(default=None, init=False)
    _popen: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def group(self) -> int | None:
        """The process group, ``None`` before the start and after the end."""
        return None if self._popen is None or self.status is not None else self._popen.pid

    def start(self, happenings: Happenings) -> None:
        """Start the process; what it writes, and its end, are put into `happenings`.

        Raises
        ------
        FednnUNetError
            If the program cannot be started, or its log cannot be opened.
        """
        try:
            log = self.log_path.open("ab", buffering=0)
        except OSError as error:
            raise FednnUNetError(
                f"The log file {self.log_path} of {self.name} cannot be written ({error.strerror}): "
                "choose another folder with --log_dir."
            ) from error
        try:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # the encoding is what the reader below takes for granted, whatever the locale says
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONIOENCODING": "utf-8:backslashreplace",
                    **self.environment,
                },
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            log.close()
            raise FednnUNetError(f"{self.name} could not be started: {error}.") from error
        assert self._popen.stdout is not None
        reader = threading.Thread(target=self._read, args=(self._popen.stdout, log, happenings), daemon=True)
        reader.start()
        threading.Thread(target=self._await_end, args=(self._popen, reader, happenings), daemon=True).start()

    def signal(self, signum: int) -> None:
        """Send a signal to the process and to all that it has started."""
        if (group := self.group) is not None:
            signal_group(group, signum)

    def _read(self, stream: IO[bytes], log: IO[bytes], happenings: Happenings) -> None:
        splitter = LineSplitter()
        writes = True
        with stream, log:
            while chunk := stream.read(_CHUNK):
                if writes:
                    try:
                        log.write(chunk)
                    except OSError as error:
                        # a full disk must not stop a training: keep reading, or the process blocks on its output
                        writes = False
                        _log.warning("Stopped writing the log file %s: %s", self.log_path, error)
                self._tell(splitter.feed(chunk), happenings)
            self._tell(splitter.finish(), happenings)

    def _tell(self, lines: Iterable[str], happenings: Happenings) -> None:
        for line in lines:
            self.last_lines.append(line)
            if _COLOUR.sub("", line).startswith(_ERROR):
                self.errors.append(line)
            happenings.put(Line(self, line))

    def _await_end(self, popen: "subprocess.Popen[bytes]", reader: threading.Thread, happenings: Happenings) -> None:
        status = popen.wait()
        # A process that crashed leaves its workers behind. They go at once: while one lives the number of the group is
        # taken, later it may be somebody else's; and they hold the pipe that the reader reads to its end.
        end_groups([popen.pid])
        reader.join(_CLOSE_SECONDS)  # only a process that left the group could still hold the pipe
        self.status = status
        happenings.put(Exited(self, status))


def stop_all(processes: Iterable[Process], happenings: Happenings, grace: float = GRACE_SECONDS) -> list[Line]:
    """End processes with all that they have started: ask them to, wait, then kill.

    Parameters
    ----------
    processes
        The processes; those that have ended or never started are left alone.
    happenings
        The queue with which they were started. An `Interrupted` in it ends the patience.
    grace
        Seconds that they get to end by themselves.

    Returns
    -------
    list[Line]
        What they wrote until then.
    """
    living = {process for process in processes if process.group is not None}
    for process in living:
        process.signal(signal.SIGTERM)
    lines: list[Line] = []
    deadline = time.monotonic() + grace
    killed = False
    while living:
        try:
            happening = happenings.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            happening = None
        if isinstance(happening, Line):
            lines.append(happening)
        elif isinstance(happening, Exited):
            living.discard(happening.process)
        elif killed and happening is None:
            _log.warning("Still running after SIGKILL: %s.", ", ".join(process.name for process in living))
            break
        elif not killed:  # out of time, or interrupted
            killed = True
            for process in living:
                process.signal(signal.SIGKILL)
            # what is killed ends at once, but for a system call that cannot be interrupted, as on a dead network disk
            deadline = time.monotonic() + GRACE_SECONDS
    return lines
