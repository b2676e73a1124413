"""Small processes to launch, and a way to know, without waiting by the clock, whether any of them still runs."""

import os
import select
import sys
import textwrap

import pytest

LIMIT_SECONDS = 60


class Lifeline:
    """A named pipe that processes hold open for writing: at its end, none of them runs any more."""

    def __init__(self, path):
        self.path = path
        self.gate = path.with_name(f"{path.name} gate")
        os.mkfifo(path)
        os.mkfifo(self.gate)
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._gate = os.open(self.gate, os.O_RDWR)  # held open, so that what is written stays there to be read

    def wait_for(self, count):
        """Wait until so many processes have taken hold."""
        held = 0
        while held < count:
            assert select.select([self._end], [], [], LIMIT_SECONDS)[0], f"only {held} of {count} processes came up"
            held += len(os.read(self._end, count - held))

    def is_let_go(self):
        """Whether no process holds it at this moment."""
        try:
            while os.read(self._end, 1024):
                pass
        except BlockingIOError:
            return False
        return True

    def wait_until_let_go(self):
        """Wait until no process holds it."""
        poll = select.poll()
        poll.register(self._end)
        while not self.is_let_go():
            assert poll.poll(LIMIT_SECONDS * 1000), "processes are still running"

    def close(self):
        os.close(self._end)
        os.close(self._gate)


@pytest.fixture
def lifeline(tmp_path):
    line = Lifeline(tmp_path / "life line")
    yield line
    line.close()


HOLD = """
import os, signal, subprocess, sys
def hold():
    os.write(os.open(LINE, os.O_WRONLY), b".")
    os.write(os.open(GATE, os.O_WRONLY), b".")
def others(count):
    gate = os.open(GATE, os.O_RDONLY)
    while count:
        count -= len(os.read(gate, count))
def worker(stubborn=False):
    # as nnU-Net's workers: of the same group, and left behind if its parent is killed
    code = START + ("signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else "") + "hold()"
    subprocess.Popen([sys.executable, "-S", "-c", code + "\\nwhile True: signal.pause()"])
"""


@pytest.fixture
def script(lifeline):
    """Make the command of a process from its code.

    In it, `hold()` takes hold of the lifeline, `worker()` starts a process that does, `others(n)` waits for n of them.
    """

    def make(code):
        start = f"LINE = {str(lifeline.path)!r}\nGATE = {str(lifeline.gate)!r}\n{HOLD}"
        return [sys.executable, "-S", "-c", f"{start}START = {start!r}\n{textwrap.dedent(code)}"]

    return make
