"""Flower's long-lived gRPC stream: a node opens one outbound connection, keeps it, and opens another one if it breaks.

The only module that names Flower's ``start_server`` and ``start_client``, which are deprecated upstream; nodes and
strategies do not know which channel carries them.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc
from flwr.client import NumPyClient, start_client
from flwr.common import NDArrays, Scalar
from flwr.server import Server, ServerConfig, start_server

from fednnunet.errors import FednnUNetError

logger = logging.getLogger(__name__)

Reply = TypeVar("Reply")

_LOOK_EVERY_SECONDS = 0.2
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0


class Node(Protocol):
    """A Flower client that knows when it has been told farewell."""

    @property
    def has_left(self) -> bool:
        """Whether there is no reason to be connected any more."""

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """See `flwr.client.NumPyClient`."""

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """See `flwr.client.NumPyClient`."""

    def evaluate(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[float, int, dict[str, Scalar]]:
        """See `flwr.client.NumPyClient`."""


def serve(address: str, server: Server) -> None:
    """Listen on `address` until `server` has done its rounds.

    Parameters
    ----------
    address
        ``host:port`` to listen on.
    server
        Its ``fit`` is called once the port is open.
    """
    _silence_flower()
    start_server(server_address=address, server=server, config=ServerConfig(num_rounds=0))


def join(address: str, node: Node, retry_for: float | None = None, contact_timeout: float = 120.0) -> None:
    """Serve the coordinator at `address` until it says farewell, over as many connections as that takes.

    Parameters
    ----------
    address
        ``host:port`` of the coordinator.
    node
        Answers the coordinator. What it is doing goes on while there is no connection.
    retry_for
        Seconds without a connection after which to give up; ``None`` for never.
    contact_timeout
        Seconds without a word from the coordinator after which the connection counts as broken.

    Raises
    ------
    FednnUNetError
        If the coordinator could not be reached for as long as `retry_for`.
    """
    _silence_flower()
    pause = _FIRST_PAUSE_SECONDS
    last_contact = time.monotonic()
    while not node.has_left:
        _wait_until_reachable(address, None if retry_for is None else last_contact + retry_for - time.monotonic())
        connection = _Connection(address, node)
        reason = connection.serve(contact_timeout)
        if node.has_left:
            return
        if connection.contacts:
            last_contact, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
            logger.warning("The connection to the coordinator broke (%s), connecting again …", reason)
        if retry_for is not None and time.monotonic() - last_contact > retry_for:
            raise FednnUNetError(f"The connection to the coordinator at {address} broke ({reason}), see what it says.")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class _Connection(NumPyClient):
    """Hands on what comes over one connection, as long as that is the node's."""

    def __init__(self, address: str, node: Node) -> None:
        self._address = address
        self._node = node
        self._is_over = threading.Event()
        self._reason = "it was closed"
        self._busy = 0
        self._last_contact = time.monotonic()
        self.contacts = 0

    def serve(self, contact_timeout: float) -> str:
        """Serve until the connection ends or nothing has come for too long, and return why."""
        # Flower's client cannot be told to stop; one whose connection is dead is left to itself
        threading.Thread(target=self._serve, name="fednnunet-connection", daemon=True).start()
        while not self._is_over.wait(_LOOK_EVERY_SECONDS):
            if not self._busy and time.monotonic() - self._last_contact > contact_timeout:
                self._reason = f"silent for {contact_timeout:g} s"
                self._is_over.set()
        return self._reason

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """Hand on a question."""
        return self._hand_on(lambda: self._node.get_properties(config))

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Hand on a round's work."""
        return self._hand_on(lambda: self._node.fit(parameters, config))

    def evaluate(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[float, int, dict[str, Scalar]]:
        """Hand on a round's result."""
        return self._hand_on(lambda: self._node.evaluate(parameters, config))

    def _hand_on(self, answer: Callable[[], Reply]) -> Reply:
        if self._is_over.is_set():
            raise ConnectionError("another connection has taken the place of this one")
        self.contacts += 1
        self._busy += 1
        try:
            return answer()
        finally:
            self._last_contact = time.monotonic()
            self._busy -= 1

    def _serve(self) -> None:
        try:
            start_client(server_address=self._address, client=self.to_client(), insecure=True)
        except grpc.RpcError as error:
            self._end(_reason(error))
        except BaseException as error:
            self._end(type(error).__name__)
            logger.debug("The connection ended", exc_info=error)
        finally:
            self._is_over.set()

    def _end(self, reason: str) -> None:
        if not self._is_over.is_set():
            self._reason = reason


def _wait_until_reachable(address: str, seconds: float | None) -> None:
    """Return when a coordinator listens at `address`; gRPC retries with backoff meanwhile."""
    options = [("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_PAUSE_SECONDS))]
    with grpc.insecure_channel(address, options=options) as probe:
        ready = grpc.channel_ready_future(probe)
        try:
            ready.result(timeout=2 if seconds is None else max(0.0, min(2, seconds)))
        except grpc.FutureTimeoutError:
            logger.info("Waiting for the coordinator at %s …", address)
            try:
                ready.result(timeout=None if seconds is None else max(0.0, seconds - 2))
            except grpc.FutureTimeoutError:
                raise FednnUNetError(
                    f"No coordinator could be reached at {address} for as long as --retry_for allows: "
                    "is it running, and are --host and --port right?"
                ) from None


def _reason(error: grpc.RpcError) -> str:
    code = error.code() if isinstance(error, grpc.Call) else None
    return code.name if code is not None else type(error).__name__


def _silence_flower() -> None:
    """Keep Flower's own narration, deprecation notices included, out of ours, and gRPC's about connections that end."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
