"""Shuts a process down cleanly on a signal."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_before_raising: list[Callable[[], None]] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM, with which schedulers end a process; it may be restarted later."""


@contextlib.contextmanager
def interruptible(cancel: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM `Terminated`, whatever handlers libraries have installed.

    Processes that this one forks end at a SIGTERM without further ado: that is how pools end theirs. Outside the main
    thread, which alone gets signals, nothing changes.

    Parameters
    ----------
    cancel
        Called before that, where what is raised would wait for other threads to end; takes no lock.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGINT: _interrupt, signal.SIGTERM: _terminate}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    _before_raising.append(cancel)
    try:
        yield
    finally:
        _before_raising.remove(cancel)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    _cancel()
    raise KeyboardInterrupt


def _terminate(number: int, frame: object) -> None:
    _cancel()
    raise Terminated


def _cancel() -> None:
    for cancel in _before_raising:
        cancel()


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
