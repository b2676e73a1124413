"""Network addresses: how host and port are written, and whether a port is free."""

import ipaddress
import socket

from fednnunet.errors import FednnUNetError


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether `host` can only be reached from this machine; a name that cannot be resolved counts as not."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def check_can_listen(host: str, port: int) -> None:
    """Refuse an address on which the coordinator could not listen.

    gRPC itself would share a port with another gRPC server without a word.

    Raises
    ------
    FednnUNetError
        If the port is in use, or the address is not one of this machine.
    """
    bare_host = host.strip("[]")
    try:
        candidates = socket.getaddrinfo(bare_host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise FednnUNetError(f"The host '{host}' is unknown: give an address of this machine with --host.") from error
    family, kind, protocol, _, address = candidates[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise FednnUNetError(
                f"The coordinator cannot listen on {join_address(host, port)} ({error.strerror}): "
                "stop the program that uses the port, or choose another with --port."
            ) from error


def find_free_port(host: str) -> int:
    """Return a port of `host` that is free now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host.strip("[]"), 0))
        port: int = probe.getsockname()[1]
        return port
