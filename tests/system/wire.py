"""A TCP proxy that keeps every byte, and a reader of the gRPC messages in them."""

import socket
import struct
import threading
from collections import defaultdict
from types import TracebackType
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA = 0
_PADDED = 0x8


class RecordingProxy:
    """Forwards connections to a port on loopback; `sent` and `received` hold the bytes of each connection.

    Parameters
    ----------
    target
        The port that is forwarded to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent: list[bytearray] = []
        self.received: list[bytearray] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            sent, received = bytearray(), bytearray()
            self.sent.append(sent)
            self.received.append(received)
            self._start(self._forward, client, server, sent)
            self._start(self._forward, server, client, received)

    def _forward(self, source: socket.socket, target: socket.socket, record: bytearray) -> None:
        try:
            while data := source.recv(1 << 16):
                record += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # the other end has gone
            return

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


def split_frames(stream: bytes) -> tuple[bytes, bytes]:
    """Return the gRPC messages' bytes of an HTTP/2 connection that carries one call, and all other payloads."""
    position = len(_PREFACE) if stream.startswith(_PREFACE) else 0
    data: dict[int, bytes] = defaultdict(bytes)
    rest = b""
    while position < len(stream):
        high, low, kind, flags, number = struct.unpack_from(">BHBBL", stream, position)
        length = (high << 16) + low
        payload = stream[position + 9 : position + 9 + length]
        assert len(payload) == length, "the connection ended within a frame"
        position += 9 + length
        if kind == _DATA:
            assert not flags & _PADDED
            data[number] += payload
        else:
            rest += payload
    assert len(data) <= 1
    return next(iter(data.values()), b""), rest


def grpc_messages(data: bytes) -> list[bytes]:
    """Return the messages, without gRPC's five bytes before each."""
    messages, position = [], 0
    while position < len(data):
        compressed, length = struct.unpack_from(">BL", data, position)
        assert not compressed
        messages.append(data[position + 5 : position + 5 + length])
        position += 5 + length
    assert position == len(data)
    return messages
