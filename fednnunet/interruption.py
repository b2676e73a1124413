"""Shuts a process down cleanly on a signal."""

import contextlib
import os
import signal
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM, with which schedulers end a process; it may be restarted later."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM `Terminated`, whatever handlers libraries have installed.

    Processes that this one forks end at a SIGTERM without further ado: that is how pools end theirs.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _reset_in_child() -> None:
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


# A forked process that inherits a handler written in Python would not run it while it waits for a lock, and never end;
# blocked meanwhile, a signal that comes right after the fork waits until the handler has gone.
os.register_at_fork(
    before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]) and None,
    after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM]) and None,
    after_in_child=_reset_in_child,
)
