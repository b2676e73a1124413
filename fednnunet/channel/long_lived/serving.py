"""The coordinator's end of the channel."""

import threading
from collections.abc import Iterator

import grpc
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import add_FlowerServiceServicer_to_server
from flwr.server import Server
from flwr.server.client_proxy import ClientProxy
from flwr.server.superlink.fleet.grpc_bidi.flower_service_servicer import FlowerServiceServicer
from flwr.supercore.grpc import generic_create_grpc_server

from fednnunet.channel.long_lived.flower import LONGEST_MESSAGE, silence

_CLOSE_WITHIN_SECONDS = 1.0


def serve(address: str, server: Server, tls: tuple[bytes, bytes] | None = None) -> None:
    """Listen on `address` until `server` has done its rounds.

    Parameters
    ----------
    address
        ``host:port`` to listen on.
    server
        Its ``fit`` is called once the port is open.
    tls
        Certificate and private key, PEM; without them nothing is encrypted.
    """
    silence()
    listener = generic_create_grpc_server(
        servicer_and_add_fn=(_InTurn(server.client_manager()), add_FlowerServiceServicer_to_server),
        server_address=address,
        max_message_length=LONGEST_MESSAGE,
        # the first of the three would be for certificates of nodes, which have keys instead
        certificates=None if tls is None else (tls[0], *tls),
    )
    listener.start()
    try:
        server.fit(num_rounds=0, timeout=None)
        server.disconnect_all_clients(timeout=None)
    finally:
        listener.stop(grace=_CLOSE_WITHIN_SECONDS).wait()


def hang_up(proxy: ClientProxy) -> None:
    """End a connection, whether or not the node wants that."""
    bridge = getattr(proxy, "bridge", None)
    if bridge is not None:
        bridge.close()


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
