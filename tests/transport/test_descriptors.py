"""Connections of strangers take no more descriptors than there are for them, and do not keep them."""

import os
import resource
import selectors
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flwr.server.client_manager import SimpleClientManager

from fednnunet.transport.address import find_free_port, join_address
from fednnunet.transport.long_lived import serving
from fednnunet.transport.long_lived.descriptors import RESERVE

HOST = "127.0.0.1"


class _Waiting:
    """A coordinator that does nothing until it is told to end."""

    def __init__(self) -> None:
        self.is_open, self.may_end = threading.Event(), threading.Event()

    def run(self) -> None:
        self.is_open.set()
        self.may_end.wait(60)


def _wait_for_ends(open_ones: selectors.BaseSelector, left: int) -> bool:
    """Wait until the other end has closed all connections but `left`, which are the ones that stay registered."""
    while len(open_ones.get_map()) > left and (ready := open_ones.select(timeout=30)):
        for key, _ in ready:
            one = key.fileobj
            assert isinstance(one, socket.socket)
            try:
                has_ended = not one.recv(1 << 10)
            except OSError:
                has_ended = True
            if has_ended:
                open_ones.unregister(one)
    return len(open_ones.get_map()) <= left


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_idle_connections_are_no_more_than_there_is_room_for_and_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 20
    monkeypatch.setattr(serving, "most_connections", lambda: most)
    monkeypatch.setattr(serving, "_IDLE_SECONDS", 3.0)
    port, coordinator = find_free_port(HOST), _Waiting()
    thread = threading.Thread(
        target=serving.serve, args=(join_address(HOST, port), SimpleClientManager(), coordinator.run), daemon=True
    )
    thread.start()
    assert coordinator.is_open.wait(60)
    open_ones = selectors.DefaultSelector()
    before = len(os.listdir("/proc/self/fd"))
    connections = [socket.create_connection((HOST, port)) for _ in range(100)]
    for one in connections:
        open_ones.register(one, selectors.EVENT_READ)
    assert _wait_for_ends(open_ones, left=most)
    assert len(os.listdir("/proc/self/fd")) - before - len(connections) <= most + 5
    assert _wait_for_ends(open_ones, left=0)
    open_ones.close()
    coordinator.may_end.set()
    thread.join(30)
    for one in connections:
        one.close()


@pytest.mark.parametrize(("soft", "hard", "expected"), [(256, 2048, 2048 - RESERVE), (256, 320, 64)])
def test_the_soft_limit_is_raised_and_connections_stay_below_it(soft: int, hard: int, expected: int) -> None:
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from fednnunet.transport.long_lived.descriptors import most_connections\n"
        "print(most_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this machine allows fewer files")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(expected), str(hard), str(hard)]
