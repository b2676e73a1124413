"""Opens many unauthenticated connections to a coordinator on loopback, and replaces closed ones.

``python benchmarks/crowd.py PORT [--tcp 5000] [--tls 500]``

Ends with its standard input, and prints how many connections were open at a time, and how many were opened.
"""

import argparse
import resource
import socket
import ssl
import sys
import threading

HOST = "127.0.0.1"

_PAUSE_SECONDS = 1.0
_CONNECT_SECONDS = 5.0
_MOST_AT_ONCE = 500


class Crowd:
    """Keeps connections open that say nothing.

    Parameters
    ----------
    port
        The coordinator's, on loopback.
    tcp
        Connections that say nothing at all.
    tls
        Connections that say nothing after the handshake of TLS.
    """

    def __init__(self, port: int, tcp: int, tls: int) -> None:
        self._port = port
        self._wanted = {False: tcp, True: tls}
        self._open: dict[bool, list[socket.socket]] = {False: [], True: []}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE  # a stranger trusts anybody
        self._context.set_alpn_protocols(["h2"])
        self._is_over = threading.Event()
        self.opened = 0
        self.most = {False: 0, True: 0}

    def run(self) -> None:
        """Open what is missing, once a second, until `stop`."""
        while not self._is_over.is_set():
            for secure, wanted in self._wanted.items():
                self._open[secure] = [one for one in self._open[secure] if _lives(one)]
                for _ in range(min(_MOST_AT_ONCE, wanted - len(self._open[secure]))):
                    if self._is_over.is_set() or not self._connect(secure):
                        break
                self.most[secure] = max(self.most[secure], len(self._open[secure]))
            self._is_over.wait(_PAUSE_SECONDS)
        for connections in self._open.values():
            for one in connections:
                one.close()

    def stop(self) -> None:
        """End all connections."""
        self._is_over.set()

    def _connect(self, secure: bool) -> bool:
        try:
            one = socket.create_connection((HOST, self._port), timeout=_CONNECT_SECONDS)
        except OSError:  # nobody listens, or no port is left
            return False
        try:
            if secure:
                one = self._context.wrap_socket(one)
            one.setblocking(False)
        except OSError:  # there was no room
            one.close()
            return False
        self._open[secure].append(one)
        self.opened += 1
        return True


def _lives(one: socket.socket) -> bool:
    """Return whether the other end has not ended a connection; otherwise close it."""
    try:
        while one.recv(1 << 12):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        pass
    one.close()
    return False


def main() -> None:
    """Be there until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--tcp", type=int, default=5000)
    parser.add_argument("--tls", type=int, default=500)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd(arguments.port, arguments.tcp, arguments.tls)
    thread = threading.Thread(target=crowd.run)
    thread.start()
    sys.stdin.read()
    crowd.stop()
    thread.join()
    print(crowd.most[False], crowd.most[True], crowd.opened)


if __name__ == "__main__":
    main()
