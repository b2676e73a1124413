"""Process groups: a node and every worker that nnU-Net starts for it end together, whatever happens to the launcher.

This module is also a program, the watchdog: it reads process groups from its input, and when the launcher that
writes them is gone without having ended them (``kill -9``, out of memory), it ends them itself.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

GRACE_SECONDS = 10.0
"""How long a group that was asked to end may take before it is killed."""

_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0

_log = logging.getLogger(__name__)


def signal_group(group: int, signum: int) -> None:
    """Send a signal to all processes of a group, if there are any."""
    # macOS: no permission to signal what has ended and only waits to be collected
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signum)


def group_lives(group: int) -> bool:
    """Return whether a process of the group still runs.

    A process that has ended but that nobody has collected (a zombie, which a container without an init process
    keeps forever) does not run.
    """
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    processes = Path("/proc")
    if not (processes / "self" / "stat").exists():
        return True
    return any(_runs_in(process, group) for process in processes.iterdir() if process.name.isdigit())


def _runs_in(process: Path, group: int) -> bool:
    try:
        stat = (process / "stat").read_bytes()
    except OSError:
        return False  # it ended while we looked
    # "pid (name) state ppid pgrp …": the name may hold anything, parentheses and spaces included
    state, _, pgrp = stat[stat.rindex(b")") + 1 :].split()[:3]
    return int(pgrp) == group and state not in {b"Z", b"X"}


def end_groups(groups: Iterable[int], grace: float = GRACE_SECONDS) -> None:
    """Ask the groups to end, wait at most `grace` seconds, then kill what is left."""
    left = list(groups)
    for group in left:
        signal_group(group, signal.SIGTERM)
    left = _wait_for(left, grace)
    for group in left:
        signal_group(group, signal.SIGKILL)
    _wait_for(
        left, _KILL_SECONDS
    )  # a process in an uninterruptible system call (a dead network disk) may outlast even this


def _wait_for(groups: list[int], seconds: float) -> list[int]:
    """Wait until the groups have ended, at most so long; return those that have not."""
    deadline = time.monotonic() + seconds
    while groups := [group for group in groups if group_lives(group)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    return groups


class Watchdog:
    """Ends the process groups in its care if the launcher disappears; a context manager.

    It is a process of its own at the other end of a pipe that only the launcher holds open, so it learns of the
    launcher's end in every case, even of one in which the launcher can do nothing any more.
    """

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],  # this file needs the standard library only, and starts fast so
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=GRACE_SECONDS + _KILL_SECONDS + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def take(self, group: int) -> None:
        """Have `group` ended if the launcher disappears."""
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """Forget `group`, which has ended: its number may come to belong to somebody else."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except OSError as error:
            _log.debug("The watchdog has failed; the run continues without it: %s", error)


def _watch() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            groups.add(int(line))
        else:
            groups.discard(-int(line))
    end_groups(groups)


if __name__ == "__main__":
    _watch()
