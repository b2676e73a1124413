"""The node's end of the channel."""

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import grpc
from flwr.client import Client
from flwr.common import serde
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.transport.long_lived.flower import LONGEST_MESSAGE, silence
from fednnunet.transport.tls import (
    Certificate,
    Endpoint,
    UntrustedError,
    avoid_proxy,
    look_at,
    proxy_for,
    speaks_tls,
    without_password,
)

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_HUNG_UP_ON_WITHIN_SECONDS = 10.0
"""After a node's last answer; that may be long in coming through, and is asked for again."""
_OPTIONS = [("grpc.max_send_message_length", LONGEST_MESSAGE), ("grpc.max_receive_message_length", LONGEST_MESSAGE)]


class Node(Protocol):
    """A node, which Flower's adapter makes a client of."""

    certificate: bytes
    """SHA-256 of the certificate that the current connection has shown."""

    @property
    def has_left(self) -> bool:
        """Whether there is no reason to be connected any more."""

    def to_client(self) -> Client:
        """Return what answers Flower's messages; see `flwr.client.NumPyClient`."""


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
            reason, questions = _serve(endpoint, certificate, node, contact_timeout)
            if node.has_left:
                return
            if questions:
                was_connected = True
                last_contact, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
                logger.warning("The connection to the coordinator broke (%s), reconnecting …", reason)
        if retry_for is not None and time.monotonic() - last_contact > retry_for:
            raise FednnUNetError(
                f"The connection to the coordinator at {endpoint.address} broke ({reason}), see its output."
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _serve(endpoint: Endpoint, certificate: Certificate | None, node: Node, contact_timeout: float) -> tuple[str, int]:
    """Serve over one connection until it ends; return why it has, and how many questions came."""
    node.certificate = NO_CERTIFICATE if certificate is None else certificate.digest
    client, questions, leaves_at = node.to_client(), 0, math.inf
    answers: queue.SimpleQueue[ClientMessage | None] = queue.SimpleQueue()
    with _channel(endpoint, certificate) as channel:
        call = FlowerServiceStub(channel).Join(iter(answers.get, None))
        try:
            while True:
                patience = contact_timeout
                if node.has_left:  # the coordinator hangs up, which a faulty one may never do
                    leaves_at = min(leaves_at, time.monotonic() + _HUNG_UP_ON_WITHIN_SECONDS)
                    patience = max(0.0, leaves_at - time.monotonic())
                with _cancelled_after(patience, call) as is_over:
                    question: ServerMessage = next(call)
                if question.HasField("reconnect_ins"):
                    return "the coordinator has ended it", questions
                questions += 1
                answers.put(_answered(client, question))
        except StopIteration:
            return "it was closed", questions
        except grpc.RpcError as error:
            return f"silent for {patience:g} s" if is_over.is_set() else _reason(error), questions
        except FednnUNetError:
            raise
        except Exception as error:
            logger.exception("The node could not answer")
            return type(error).__name__, questions
        finally:
            call.cancel()
            answers.put(None)  # ends gRPC's thread, which waits for the next answer


def _channel(endpoint: Endpoint, certificate: Certificate | None) -> grpc.Channel:
    if certificate is None:
        return grpc.insecure_channel(endpoint.address, _OPTIONS)
    # gRPC trusts this one certificate, not whatever its authority has signed
    return grpc.secure_channel(endpoint.address, grpc.ssl_channel_credentials(certificate.pem), _OPTIONS)


@contextlib.contextmanager
def _cancelled_after(seconds: float, call: grpc.Call) -> Iterator[threading.Event]:
    """Cancel a call if the block takes longer than this; gives what tells whether that was so."""
    is_over = threading.Event()

    def cancel() -> None:
        is_over.set()
        call.cancel()

    timer = threading.Timer(seconds, cancel)
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()


def _answered(client: Client, question: ServerMessage) -> ClientMessage:
    """Let Flower's client answer one of Flower's messages."""
    kind = question.WhichOneof("msg")
    if kind == "get_properties_ins":
        properties = client.get_properties(serde.get_properties_ins_from_proto(question.get_properties_ins))
        return ClientMessage(get_properties_res=serde.get_properties_res_to_proto(properties))
    if kind == "fit_ins":
        fitted = client.fit(serde.fit_ins_from_proto(question.fit_ins))
        return ClientMessage(fit_res=serde.fit_res_to_proto(fitted))
    if kind == "evaluate_ins":
        evaluated = client.evaluate(serde.evaluate_ins_from_proto(question.evaluate_ins))
        return ClientMessage(evaluate_res=serde.evaluate_res_to_proto(evaluated))
    raise ConnectionError(f"the coordinator asks for {kind}, which a node has not")


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
