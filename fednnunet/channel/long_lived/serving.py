"""The coordinator's end of the channel."""

from flwr.server import Server, ServerConfig, start_server
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.long_lived.flower import LONGEST_MESSAGE, silence


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
    start_server(
        server_address=address,
        server=server,
        config=ServerConfig(num_rounds=0),
        grpc_max_message_length=LONGEST_MESSAGE,
        # the first of the three would be for certificates of nodes, which have keys instead
        certificates=None if tls is None else (tls[0], *tls),
    )


def hang_up(proxy: ClientProxy) -> None:
    """End a connection, whether or not the node wants that."""
    bridge = getattr(proxy, "bridge", None)
    if bridge is not None:
        bridge.close()
