"""Flower's long-lived gRPC stream: a node opens one outbound connection and keeps it.

The only module that names Flower's ``start_server`` and ``start_client``, which are deprecated upstream; nodes and
strategies do not know which channel carries them.
"""

import logging

import grpc
from flwr.client import NumPyClient, start_client
from flwr.server import Server, ServerConfig, start_server

from fednnunet.errors import FednnUNetError

logger = logging.getLogger(__name__)


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


def join(address: str, client: NumPyClient) -> None:
    """Connect `client` to the coordinator at `address`, waiting until it is there, and serve it until it says farewell.

    Raises
    ------
    FednnUNetError
        If the connection breaks, or the coordinator has no place for this node.
    """
    _silence_flower()
    _wait_until_reachable(address)
    try:
        start_client(server_address=address, client=client.to_client(), insecure=True)
    except grpc.RpcError as error:
        raise FednnUNetError(
            f"The connection to the coordinator at {address} broke ({_reason(error)}): see what the coordinator says."
        ) from error
    except StopIteration as error:
        raise FednnUNetError(
            f"The coordinator at {address} takes no more sites: all of its --num_clients places are taken."
        ) from error


def _wait_until_reachable(address: str) -> None:
    """Return when a coordinator listens at `address`; gRPC retries with backoff meanwhile."""
    with grpc.insecure_channel(address) as probe:
        ready = grpc.channel_ready_future(probe)
        try:
            ready.result(timeout=2)
        except grpc.FutureTimeoutError:
            logger.info("Waiting for the coordinator at %s …", address)
            ready.result()


def _reason(error: grpc.RpcError) -> str:
    code = error.code() if isinstance(error, grpc.Call) else None
    return code.name if code is not None else type(error).__name__


def _silence_flower() -> None:
    """Keep Flower's own narration, deprecation notices included, out of ours, and gRPC's about connections that end."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
