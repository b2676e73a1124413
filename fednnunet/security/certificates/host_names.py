"""Converts a coordinator's names and addresses to the form that certificates use."""

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

import idna
from cryptography import x509

from fednnunet.errors import FednnUNetError

_LONGEST_NAME = 253  # characters, of RFC 1035
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def general_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return names and addresses as a certificate holds them.

    Raises
    ------
    FednnUNetError
        If there is none, or one of them cannot be in a certificate.
    """
    if not hosts:
        raise FednnUNetError("A certificate must name the coordinator: give its name or address with --host.")
    return list(dict.fromkeys(_general_name(host) for host in hosts))


def _general_name(host: str) -> x509.GeneralName:
    """Return a host in the form that certificates use."""
    text = host.strip()
    if "*" in text:
        raise FednnUNetError(f"{host!r} matches more than one host: give the coordinator's own with --host.")
    try:
        bracketed = text.startswith("[") and text.endswith("]")
        address = IPv6Address(text[1:-1]) if bracketed else ip_address(text)
    except ValueError:
        return x509.DNSName(_dns_name(text))
    if address.is_unspecified:
        raise FednnUNetError(
            f"{host!r} is not an address that nodes can connect to: give the name or address by which they reach it."
        )
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise FednnUNetError(
            f"{host!r} names an interface, which a certificate cannot: leave out '%{address.scope_id}'."
        )
    return x509.IPAddress(address)


def _dns_name(text: str) -> str:
    """Return a DNS name in the form that certificates have: ASCII, in lower case, without a dot at its end."""
    try:
        name = text if text.isascii() else idna.encode(text, uts46=True).decode("ascii")
        name = name.lower().removesuffix(".")
        labels = name.split(".")
        for label in labels:
            if label.startswith("xn--"):
                idna.decode(label)
    except UnicodeError:
        labels = []
    # a last label of digits only would be taken for part of an IPv4 address
    if not labels or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit() or len(name) > _LONGEST_NAME:
        raise FednnUNetError(
            f"{text!r} is not a valid host name or IP address: give what the nodes call the coordinator by, without a "
            "port, such as coordinator.example.org or 192.0.2.7."
        )
    return name
