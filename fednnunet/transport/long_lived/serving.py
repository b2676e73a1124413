"""The coordinator's end of the channel."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator

import grpc
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import add_FlowerServiceServicer_to_server
from flwr.server.client_manager import ClientManager
from flwr.server.superlink.fleet.grpc_bidi.flower_service_servicer import FlowerServiceServicer

from fednnunet.transport.long_lived.descriptors import most_connections
from fednnunet.transport.long_lived.flower import LONGEST_MESSAGE, silence

_CLOSE_WITHIN_SECONDS = 1.0
_IDLE_SECONDS = 20.0
"""That a connection has for its handshake, and may be there without asking for anything."""
_MOST_STREAMS = 1000
"""Each takes a thread."""
_STREAMS_PER_CONNECTION = 8
"""A node has one at a time."""
_KEEPALIVE_SECONDS = 210.0
"""Shorter than the four minutes after which some networks forget a silent connection."""


def serve(
    address: str, manager: ClientManager, run: Callable[[], None], tls: tuple[bytes, bytes] | None = None
) -> None:
    """Listen on `address` until `run` returns.

    Parameters
    ----------
    address
        ``host:port`` to listen on.
    manager
        Takes the nodes that connect.
    run
        Called once the port is open.
    tls
        Certificate and private key, PEM; without them nothing is encrypted.
    """
    silence()
    listener = grpc.server(
        concurrent.futures.ThreadPoolExecutor(_MOST_STREAMS, "fednnunet-stream"),
        maximum_concurrent_rpcs=_MOST_STREAMS,
        options=[
            ("grpc.max_send_message_length", LONGEST_MESSAGE),
            ("grpc.max_receive_message_length", LONGEST_MESSAGE),
            ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
            ("grpc.keepalive_time_ms", round(1000 * _KEEPALIVE_SECONDS)),
            ("grpc.http2.max_pings_without_data", 0),
            # whoever connects and asks for nothing holds a descriptor, of which there are not many
            ("grpc.max_allowed_incoming_connections", most_connections()),
            ("grpc.server_handshake_timeout_ms", round(1000 * _IDLE_SECONDS)),
            ("grpc.max_connection_idle_ms", round(1000 * _IDLE_SECONDS)),
        ],
    )
    add_FlowerServiceServicer_to_server(_InTurn(manager), listener)
    if tls is None:
        listener.add_insecure_port(address)
    else:
        certificate, key = tls  # nodes have keys in place of certificates
        listener.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
    listener.start()
    try:
        run()
    finally:
        listener.stop(grace=_CLOSE_WITHIN_SECONDS).wait()


class _InTurn(FlowerServiceServicer):
    """Takes one answer for each question: Flower would keep in memory all that a node says unasked."""

    def Join(  # noqa: N802, gRPC calls it so
        self, request_iterator: Iterator[ClientMessage], context: grpc.ServicerContext
    ) -> Iterator[ServerMessage]:
        asked = threading.Semaphore(0)
        if not context.add_callback(asked.release):  # who waits for a question shall not do so for ever
            return

        def answers() -> Iterator[ClientMessage]:
            while True:
                asked.acquire()
                try:
                    yield next(request_iterator)
                except (StopIteration, grpc.RpcError):
                    return

        for question in super().Join(answers(), context):
            asked.release()
            yield question
