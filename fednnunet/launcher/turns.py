"""Nodes in one process, which work in turn: each with random numbers, output and log records of its own."""

import contextlib
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO

from flwr.client import Client
from flwr.common import (
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    ReconnectIns,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.background import Submits
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.node.randomness import OwnRandomness

_speaker: contextvars.ContextVar[str | None] = contextvars.ContextVar("speaker", default=None)
"""The site whose node is at work, where one is."""


class Turns:
    """Does the jobs of one site in the thread of all sites, with what is the site's own.

    Parameters
    ----------
    worker
        The thread.
    site
        Name of the site.
    log
        Takes what it prints.
    """

    def __init__(self, worker: Submits, site: str, log: IO[str]) -> None:
        self._worker = worker
        self._site = site
        self._log = log
        self._randomness = OwnRandomness()
        self._thread: int | None = None
        self._now: deque[Callable[[], None]] = deque()

    def submit(self, job: Callable[[], None]) -> None:
        """Do `job`, which must not raise, in the next turn; one that the site's own work submits, in the same turn."""
        if self._thread == threading.get_ident():
            self._now.append(job)
        else:
            self._worker.submit(lambda: self._take(job))

    def _take(self, job: Callable[[], None]) -> None:
        self._thread = threading.get_ident()
        self._now.append(job)
        with speaking(self._site), contextlib.redirect_stdout(self._log), self._randomness.drawn():
            while self._now:
                self._now.popleft()()
        self._thread = None


class InProcessNode(ClientProxy):
    """A node, as the coordinator sees it: at the other end of a connection.

    Parameters
    ----------
    site
        Name of the site.
    client
        Answers Flower's messages: what Flower's adapter has made of the node.
    """

    def __init__(self, site: str, client: Client) -> None:
        super().__init__(cid=site)
        self._client = client
        self._manager: ClientManager | None = None

    def join(self, manager: ClientManager) -> None:
        """Connect."""
        self._manager = manager
        manager.register(self)

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        """Hand on a question."""
        with speaking(self.cid):
            return self._client.get_properties(ins)

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        """Hand on a round's work."""
        with speaking(self.cid):
            return self._client.fit(ins)

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        """Hand on a round's result."""
        with speaking(self.cid):
            return self._client.evaluate(ins)

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        """Not used: weights are fetched part by part."""
        raise NotImplementedError

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        """Leave."""
        if self._manager is not None:
            self._manager.unregister(self)
        return DisconnectRes("")


def join_in_turn(nodes: Sequence[InProcessNode], registry: ClientRegistry) -> None:
    """Let nodes join, each when the one before has been admitted or refused: too many pending ones are hung up on."""

    def is_settled(site: str) -> bool:
        return registry.named(site) is not None or site not in registry.clients

    for node in nodes:
        node.join(registry)
        registry.wait_for(partial(is_settled, node.cid))


@contextlib.contextmanager
def speaking(site: str) -> Iterator[None]:
    """Make what this thread logs meanwhile what a site says."""
    token = _speaker.set(site)
    try:
        yield
    finally:
        _speaker.reset(token)


@contextlib.contextmanager
def named_records() -> Iterator[None]:
    """Write the name of the site before what its node logs."""

    def name(record: logging.LogRecord) -> bool:
        if (site := _speaker.get()) is not None and not hasattr(record, "site"):
            record.site, record.msg, record.args = site, f"{site} | {record.getMessage()}", None
        return True

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(name)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(name)
