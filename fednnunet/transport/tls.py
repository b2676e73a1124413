"""TLS at the node: verifies the coordinator's certificate, and explains a failure.

A node checks the coordinator's certificate with Python's own TLS, which reports the reason of a failure, and then lets
gRPC accept no other certificate. The signature of a node (`fednnunet.security.identity`) is therefore bound to the very
connection over which it is sent.
"""

import base64
import hashlib
import http.client
import ipaddress
import os
import socket
import ssl
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.transport.address import is_loopback, join_address

SYSTEM = "system"
"""Means the certificate authorities that the machine trusts by default."""

_SECONDS = 10.0
_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_HOST = {62, 64}
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")


class UntrustedError(FednnUNetError):
    """The other end is not a trusted coordinator; retrying does not help."""


@dataclass(frozen=True)
class Endpoint:
    """Address of a coordinator, and the authority to trust.

    Attributes
    ----------
    host, port
        Its address.
    authority
        The certificate authority as ``context`` takes it; ``None`` for connections that are not encrypted.
    """

    host: str
    port: int
    authority: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return join_address(self.host, self.port)


@dataclass(frozen=True)
class Certificate:
    """A certificate that a coordinator has shown, and that was found to be right.

    Attributes
    ----------
    der
        The certificate.
    """

    der: bytes

    @property
    def pem(self) -> bytes:
        """The certificate as gRPC takes it."""
        return ssl.DER_cert_to_PEM_cert(self.der).encode()

    @property
    def digest(self) -> bytes:
        """SHA-256 of the certificate: 32 bytes."""
        return hashlib.sha256(self.der).digest()


def authority(ca_cert: str) -> ssl.SSLContext:
    """Return a context that trusts the certificates of an authority, from TLS 1.2.

    Parameters
    ----------
    ca_cert
        PEM file, or ``system``.

    Raises
    ------
    FednnUNetError
        If there is no certificate in the file.
    """
    try:
        if ca_cert != SYSTEM:
            Path(ca_cert).read_bytes()  # tells why it cannot be read, which ssl does not
        context = ssl.create_default_context(cafile=None if ca_cert == SYSTEM else ca_cert)
    except ssl.SSLError as error:
        raise FednnUNetError(f"{ca_cert} contains no certificate: correct --ca-cert.") from error
    except OSError as error:
        raise FednnUNetError(f"{ca_cert} cannot be read ({error.strerror}): correct --ca-cert.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


def look_at(endpoint: Endpoint) -> Certificate:
    """Return the certificate of the coordinator, which is one to be trusted.

    Raises
    ------
    UntrustedError
        If it is not.
    OSError
        If nobody answers.
    """
    assert endpoint.authority is not None, "nothing to trust"
    with _connect(endpoint) as plain:
        try:
            with endpoint.authority.wrap_socket(plain, server_hostname=endpoint.host.strip("[]")) as secure:
                der = secure.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(_complaint(endpoint, error)) from None
        except ssl.SSLError as error:
            if error.reason == "WRONG_VERSION_NUMBER":
                raise UntrustedError(_no_tls(endpoint)) from None
            raise OSError(None, f"TLS: {error.reason}") from error
    assert der is not None, "a certificate was required"
    return Certificate(der)


def speaks_tls(endpoint: Endpoint) -> bool:
    """Return whether it is TLS that is spoken at the other end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent over this connection
    try:
        with _connect(endpoint) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def proxy_for(host: str) -> urllib.parse.SplitResult | None:
    """Return the HTTP proxy through which gRPC connects to `host`, if any; never for this machine itself.

    gRPC reads ``grpc_proxy``, ``https_proxy`` and ``http_proxy``, in this order, and endings of names, and networks, in
    ``no_grpc_proxy`` or ``no_proxy``; the first of them that is set, even if it is empty.
    """
    url = _first_set(_PROXY_VARIABLES)
    bare = host.strip("[]").lower()
    if not url or is_loopback(host) or any(_exempts(entry, bare) for entry in _exempt_hosts()):
        return None
    try:
        proxy = urllib.parse.urlsplit(url)
        usable = proxy.scheme == "http" and proxy.hostname and proxy.port != 0
    except ValueError:  # no address, or no port
        return None
    return proxy if usable else None


def without_password(proxy: urllib.parse.SplitResult) -> str:
    """Return the address of a proxy as people may read it."""
    return f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"


def avoid_proxy(host: str) -> None:
    """Let gRPC take no proxy to `host` if that is this machine itself.

    Flower's client hands no options to gRPC, so it is said in the environment of this process, for gRPC alone.
    """
    bare = host.strip("[]")
    if is_loopback(host) and bare not in _exempt_hosts():
        os.environ[_NO_PROXY_VARIABLES[0]] = ",".join([*_exempt_hosts(), bare])


def _first_set(variables: Iterable[str]) -> str:
    return next((os.environ[name] for name in variables if name in os.environ), "")


def _exempt_hosts() -> list[str]:
    return [entry.strip().lower() for entry in _first_set(_NO_PROXY_VARIABLES).split(",") if entry.strip()]


def _exempts(entry: str, host: str) -> bool:
    if host.endswith(entry):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _connect(endpoint: Endpoint) -> socket.socket:
    host = endpoint.host.strip("[]")
    proxy = proxy_for(host)
    if proxy is None or proxy.hostname is None:
        return socket.create_connection((host, endpoint.port), _SECONDS)
    connection = http.client.HTTPConnection(proxy.hostname, proxy.port or 80, timeout=_SECONDS)
    user, _, _ = proxy.netloc.rpartition("@")
    basic = {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
    connection.set_tunnel(host, endpoint.port, headers=basic)
    connection.connect()
    return connection.sock


def _complaint(endpoint: Endpoint, error: ssl.SSLCertVerificationError) -> str:
    where = endpoint.address
    if error.verify_code == _EXPIRED:
        return f"The certificate of the coordinator at {where} has expired: ask its operator to renew it."
    if error.verify_code == _NOT_YET_VALID:
        return f"The certificate of the coordinator at {where} is not valid yet: check both clocks."
    if error.verify_code in _OTHER_HOST:
        return (
            f"The certificate of the coordinator at {where} is for another host: write --host as in the "
            "certificate, or ask the coordinator for one with this name."
        )
    return (
        f"The certificate of the coordinator at {where} was not issued by the authority in --ca-cert "
        f"({error.verify_message}): this may be an impostor; ask the coordinator for its ca.pem."
    )


def _no_tls(endpoint: Endpoint) -> str:
    return (
        f"The coordinator at {endpoint.address} does not use TLS: it must be started with --tls-cert and --tls-key, "
        "or this may be an impostor."
    )
