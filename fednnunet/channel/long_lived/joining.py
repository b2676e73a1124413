"""The node's end of the channel."""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc
from flwr.client import Client, start_client
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    NDArrays,
    Parameters,
    Scalar,
    Status,
    ndarrays_to_parameters,
)

from fednnunet.channel.identity import NO_CERTIFICATE, Challenge
from fednnunet.channel.long_lived.flower import LONGEST_MESSAGE, silence
from fednnunet.channel.tls import (
    Certificate,
    Endpoint,
    UntrustedError,
    avoid_proxy,
    look_at,
    proxy_for,
    speaks_tls,
    without_password,
)
from fednnunet.errors import FednnUNetError

logger = logging.getLogger(__name__)

Reply = TypeVar("Reply")

_LOOK_EVERY_SECONDS = 0.2
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_HUNG_UP_ON_WITHIN_SECONDS = 10.0
"""After a node's last answer; that may be long in coming through, and is asked for again."""
_OK = Status(Code.OK, "")


class Node(Protocol):
    """A Flower client that knows when it has been told farewell."""

    @property
    def has_left(self) -> bool:
        """Whether there is no reason to be connected any more."""

    def introduce(self, challenge: Challenge, certificate: bytes) -> dict[str, Scalar]:
        """Answer the first question of a connection, over which this certificate (SHA-256) was shown."""

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """See `flwr.client.NumPyClient`."""

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """See `flwr.client.NumPyClient`."""

    def evaluate(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[float, int, dict[str, Scalar]]:
        """See `flwr.client.NumPyClient`."""


def join(endpoint: Endpoint, node: Node, retry_for: float | None = None, contact_timeout: float = 120.0) -> None:
    """Serve a coordinator until it says farewell, over as many connections as that takes.

    Parameters
    ----------
    endpoint
        Where the coordinator is, and whom to trust there.
    node
        Answers the coordinator. What it is doing goes on while there is no connection.
    retry_for
        Seconds without a connection after which to give up; ``None`` for never.
    contact_timeout
        Seconds without a word from the coordinator after which the connection counts as broken.

    Raises
    ------
    FednnUNetError
        If the coordinator could not be reached for as long as `retry_for`, or was never one to be trusted; and whatever
        `node` raises.
    """
    silence()
    avoid_proxy(endpoint.host)
    pause = _FIRST_PAUSE_SECONDS
    last_contact = time.monotonic()
    was_connected = False
    while not node.has_left:
        left = None if retry_for is None else last_contact + retry_for - time.monotonic()
        try:
            certificate = _wait_until_reachable(endpoint, left)
        except UntrustedError as error:
            if not was_connected:
                raise
            # a certificate may be renewed, and a training of a week shall not end for that
            logger.warning("%s Trying again …", error)
            certificate = None
            reason = "it is not trusted"
        else:
            connection = _Connection(endpoint, certificate, node)
            reason = connection.serve(contact_timeout)
            if connection.error is not None:
                raise connection.error
            if node.has_left:
                return
            if connection.contacts:
                was_connected = True
                last_contact, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
                logger.warning("The connection to the coordinator broke (%s), reconnecting …", reason)
        if retry_for is not None and time.monotonic() - last_contact > retry_for:
            raise FednnUNetError(
                f"The connection to the coordinator at {endpoint.address} broke ({reason}), see its output."
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def answer(node: Node, config: dict[str, Scalar], certificate: bytes) -> dict[str, Scalar]:
    """Let a node answer a question that has come where this certificate (SHA-256) was shown; the first is who it is."""
    if config.get("ask") != "hello":
        return node.get_properties(config)
    try:
        challenge = Challenge.from_json(str(config.get("body", "")))
    except FednnUNetError as error:
        return {"failure": str(error)}
    return node.introduce(challenge, certificate)


class _Connection(Client):
    """Hands on what comes over one connection, as long as that is the node's."""

    def __init__(self, endpoint: Endpoint, certificate: Certificate | None, node: Node) -> None:
        self._endpoint = endpoint
        self._certificate = certificate
        self._node = node
        self._is_over = threading.Event()
        self._reason = "it was closed"
        self._busy = 0
        self._last_contact = time.monotonic()
        self.contacts = 0
        self.error: FednnUNetError | None = None
        """Why nothing can be answered any more, over whatever connection."""

    def serve(self, contact_timeout: float) -> str:
        """Serve until the connection ends or nothing has come for too long, and return why."""
        # Flower's client cannot be told to stop; one whose connection is dead is left to itself
        threading.Thread(target=self._serve, name="fednnunet-connection", daemon=True).start()
        leaves_at = math.inf
        while not self._is_over.wait(_LOOK_EVERY_SECONDS):
            if self._node.has_left and not self._busy:  # the coordinator hangs up, which a faulty one may never do
                leaves_at = min(leaves_at, time.monotonic() + _HUNG_UP_ON_WITHIN_SECONDS)
            if time.monotonic() > leaves_at:
                self._reason = "the node has finished"
                self._is_over.set()
            if not self._busy and time.monotonic() - self._last_contact > contact_timeout:
                self._reason = f"silent for {contact_timeout:g} s"
                self._is_over.set()
        return self._reason

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        """Hand on a question."""
        shown = NO_CERTIFICATE if self._certificate is None else self._certificate.digest
        return GetPropertiesRes(_OK, self._hand_on(lambda: answer(self._node, ins.config, shown)))

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        """Give nothing: weights are fetched part by part."""
        return GetParametersRes(_OK, Parameters([], ""))

    def fit(self, ins: FitIns) -> FitRes:
        """Hand on a round's work."""
        arrays, weight, metrics = self._hand_on(lambda: self._node.fit([], ins.config))
        return FitRes(_OK, ndarrays_to_parameters(arrays), weight, metrics)

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """Hand on a round's result."""
        loss, weight, metrics = self._hand_on(lambda: self._node.evaluate([], ins.config))
        return EvaluateRes(_OK, loss, weight, metrics)

    def _hand_on(self, answer: Callable[[], Reply]) -> Reply:
        if self._is_over.is_set():
            raise ConnectionError("another connection has replaced this one")
        self.contacts += 1
        self._busy += 1
        try:
            return answer()
        except (FednnUNetError, ConnectionError):
            raise
        except Exception:  # which Flower takes for the end of the connection
            logger.exception("The node could not answer")
            raise
        finally:
            self._last_contact = time.monotonic()
            self._busy -= 1

    def _serve(self) -> None:
        try:
            start_client(
                server_address=self._endpoint.address,
                client=self,
                grpc_max_message_length=LONGEST_MESSAGE,
                # gRPC trusts this one certificate, not whatever its authority has signed
                root_certificates=None if self._certificate is None else self._certificate.pem,
                insecure=self._certificate is None,
            )
        except grpc.RpcError as error:
            self._end(_reason(error))
        except FednnUNetError as error:
            self.error = error
        except BaseException as error:
            self._end(type(error).__name__)
            logger.debug("The connection ended", exc_info=error)
        finally:
            self._is_over.set()

    def _end(self, reason: str) -> None:
        if not self._is_over.is_set():
            self._reason = reason


def _wait_until_reachable(endpoint: Endpoint, seconds: float | None) -> Certificate | None:
    """Return when a coordinator listens, with its certificate if connections are encrypted."""
    deadline = None if seconds is None else time.monotonic() + seconds
    where = _way_to(endpoint)
    pause, is_first = _FIRST_PAUSE_SECONDS, True
    while True:
        problem = "it does not answer as a coordinator does"
        try:
            if endpoint.authority is not None:
                return look_at(endpoint)
            if _answers(endpoint, 2 if deadline is None else max(0.0, min(2, deadline - time.monotonic()))):
                return None
            if speaks_tls(endpoint):
                raise UntrustedError(
                    f"The coordinator at {endpoint.address} uses TLS: give its CA certificate with --ca-cert."
                )
        except OSError as error:
            problem = error.strerror or str(error)
        if deadline is not None and time.monotonic() >= deadline:
            raise FednnUNetError(
                f"No coordinator was reachable at {where} within --retry_for "
                f"({problem}): is it running, and are --host and --port right?"
            )
        if is_first:
            logger.info("Waiting for the coordinator at %s (%s) …", where, problem)
        is_first = False
        time.sleep(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _way_to(endpoint: Endpoint) -> str:
    proxy = proxy_for(endpoint.host)
    through = f" through the proxy {without_password(proxy)}" if proxy is not None else ""
    return f"{endpoint.address}{through}"


def _answers(endpoint: Endpoint, seconds: float) -> bool:
    """Return whether gRPC is spoken at the other end, without encryption."""
    with grpc.insecure_channel(endpoint.address) as probe:
        try:
            # whatever is answered to what nobody knows; to watch the connection takes a thread that outlives it
            probe.unary_unary("/fednnunet/probe")(b"", timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code() not in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        return True


def _reason(error: grpc.RpcError) -> str:
    code = error.code() if isinstance(error, grpc.Call) else None
    return code.name if code is not None else type(error).__name__
