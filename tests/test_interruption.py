"""Signals that ask a process to end."""

import multiprocessing
import os
import signal

import pytest

from fednnunet.interruption import Terminated, interruptible


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_raises_and_the_handler_of_before_comes_back(number: int, kind: type[BaseException]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(kind) as raised, interruptible():
        os.kill(os.getpid(), number)
    assert raised.type is kind
    assert signal.getsignal(number) is before


def test_a_forked_process_that_waits_for_a_lock_ends_at_a_sigterm() -> None:
    context = multiprocessing.get_context("fork")
    lock = context.Lock()
    with interruptible(), lock:
        waiting = context.Process(target=lock.acquire)
        waiting.start()
        waiting.terminate()
        waiting.join(60)
    assert waiting.exitcode == -signal.SIGTERM
