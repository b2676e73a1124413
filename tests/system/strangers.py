"""Nodes and coordinators that do not keep to the protocol, over the real channel."""

import contextlib
import queue
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
from flwr.proto.transport_pb2 import ClientMessage, Scalar, ServerMessage

_JOIN = "/flwr.proto.FlowerService/Join"
_SECONDS = 60.0


class Stranger:
    """A node of its own making: one connection, over which it says what it likes.

    Parameters
    ----------
    address
        ``host:port`` of the coordinator.
    ca_cert
        The authority that it trusts; ``None`` for a connection that is not encrypted.
    """

    def __init__(self, address: str, ca_cert: Path | None) -> None:
        if ca_cert is None:
            self._channel = grpc.insecure_channel(address)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_cert.read_bytes()))
        self._words: queue.Queue[bytes | None] = queue.Queue()
        call = self._channel.stream_stream(_JOIN, lambda word: word, ServerMessage.FromString)
        self._heard: Iterator[ServerMessage] = call(iter(self._words.get, None), timeout=_SECONDS, wait_for_ready=True)

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, *_: object) -> None:
        self._words.put(None)
        self._channel.close()

    def hear(self) -> ServerMessage | None:
        """Return what the coordinator says next; ``None`` if it has hung up."""
        try:
            return next(self._heard)
        except (StopIteration, grpc.RpcError):
            return None

    def hear_question(self) -> tuple[str, str] | None:
        """Return kind and body of what the coordinator asks next; ``None`` if it has hung up."""
        word = self.hear()
        if word is None:
            return None
        config = word.get_properties_ins.config
        return config["ask"].string, config["body"].string

    def say(self, word: bytes) -> None:
        """Say anything."""
        self._words.put(word)

    def answer(self, **properties: str | bytes) -> None:
        """Answer a question in due form."""
        message = ClientMessage()
        for name, value in properties.items():
            scalar = Scalar(bytes=value) if isinstance(value, bytes) else Scalar(string=value)
            message.get_properties_res.properties[name].CopyFrom(scalar)
        self.say(message.SerializeToString())


class FalseCoordinator:
    """Shows a certificate to whoever connects, and says nothing.

    Parameters
    ----------
    certificate, key
        What it shows, PEM.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.set_alpn_protocols(["h2"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "FalseCoordinator":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with (
                contextlib.suppress(OSError),  # who hangs up, however abruptly, does not end it
                client,
                self._context.wrap_socket(client, server_side=True) as secure,
            ):
                secure.recv(1)


def garbage(number: int) -> bytes:
    """Return bytes that are no message, the same for the same number."""
    random_ = random.Random(number)
    size = random_.choice([0, 1, 10, 1000, 1_000_000])
    return random_.randbytes(size)
