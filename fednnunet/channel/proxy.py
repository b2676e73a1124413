"""The HTTP proxy between a node and its coordinator, if there is one: read from the environment as gRPC reads it."""

import ipaddress
import os
import urllib.parse

from fednnunet.channel.address import is_loopback

_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPTIONS = "no_grpc_proxy"
_NO_PROXY_VARIABLES = (_EXEMPTIONS, "no_proxy")


def proxy_for(host: str) -> urllib.parse.SplitResult | None:
    """Return the HTTP proxy through which a node connects to `host`, if any.

    gRPC reads ``grpc_proxy``, ``https_proxy`` and ``http_proxy``, in this order, and the endings of names, and the
    networks, in ``no_grpc_proxy`` or ``no_proxy``. What is not ``http://`` it ignores.
    """
    url = next((os.environ[name] for name in _PROXY_VARIABLES if os.environ.get(name)), "")
    try:
        proxy = urllib.parse.urlsplit(url)
        usable = proxy.scheme == "http" and proxy.hostname and proxy.port != 0
    except ValueError:  # no port, or no address, in it
        return None
    if not usable or _is_exempt(host.strip("[]")) or is_loopback(host):
        return None
    return proxy


def go_around_for_loopback(host: str) -> None:
    """Have gRPC connect to `host` directly, if it is this machine: a proxy's own loopback is another one.

    Flower's client takes no options for its channel, so this process's environment must tell.
    """
    if is_loopback(host):
        os.environ[_EXEMPTIONS] = f"{_exemptions()},{host.strip('[]')}"


def spelled(proxy: urllib.parse.SplitResult | None) -> str:
    """Return ``", through the proxy http://HOST:PORT"``, which holds no password; nothing where there is no proxy."""
    return "" if proxy is None else f", through the proxy http://{proxy.netloc.rpartition('@')[2]}"


def _exemptions() -> str:
    return next((os.environ[name] for name in _NO_PROXY_VARIABLES if os.environ.get(name)), "")


def _is_exempt(host: str) -> bool:
    entries = [entry.strip().lower() for entry in _exemptions().split(",")]
    return any(entry and (host.lower().endswith(entry) or _is_in(host, entry)) for entry in entries)


def _is_in(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
