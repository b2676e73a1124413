"""Parses and formats network addresses, and checks ports."""

import ipaddress
import re
import socket

from fednnunet.errors import FednnUNetError

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?")


def read_host(text: str) -> str:
    """Return the name or address of a host as a user has written it, an IPv6 address without brackets.

    Raises
    ------
    FednnUNetError
        If `text` is something else, such as a URL, or more than that.
    """
    host = text.strip()
    if not host:
        raise FednnUNetError("the host is empty: give a name or an address")
    scheme, is_url, rest = host.rpartition("://")
    if is_url:
        raise FednnUNetError(f"'{host}' is a URL: leave '{scheme}://' out{_for_example(rest.partition('/')[0])}")
    if "/" in host:
        raise FednnUNetError(f"'{host}' contains a '/': leave that out{_for_example(host.partition('/')[0])}")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if _is_address(bare) and (bare == host or ":" in bare):
        return bare
    before, has_port, port = host.rpartition(":")
    if has_port and port.isdecimal() and (":" not in before or before.startswith("[")):
        raise FednnUNetError(f"'{host}' includes a port: leave that out{_for_example(host)}")
    if ":" in host or "[" in host or re.fullmatch(r"[0-9.]+", host):
        raise FednnUNetError(f"'{host}' is not an IP address")
    if not _NAME.fullmatch(host):
        raise FednnUNetError(f"'{host}' is neither a host name nor an address")
    return host


def _for_example(rest: str) -> str:
    """Return the flags equivalent to `rest`, a host and maybe a port."""
    host, has_port, port = rest.rpartition(":")
    if not has_port or not port.isdecimal() or _is_address(rest):
        host, port = rest, ""
    flags = [f"--host {host}" if host else "", f"--port {port}" if port else ""]
    return f" ({' '.join(filter(None, flags))})" if any(flags) else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_unspecified(host: str) -> bool:
    """Return whether `host` means all addresses of a machine, which is valid for listening only."""
    return _is_address(host.strip("[]")) and ipaddress.ip_address(host.strip("[]")).is_unspecified


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
