"""Reads certificates, and checks whether the coordinator can use them."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from fednnunet.errors import FednnUNetError

CA_CERTIFICATE = "ca.pem"
CA_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"

RENEW = "'fednnunet certificates create --overwrite'"
_PARSING_ERRORS = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""Errors that `cryptography` raises for malformed or unknown files."""


@dataclass(frozen=True)
class CertificateSummary:
    """Summary of a certificate for people.

    Parameters
    ----------
    subject
        Whose certificate it is, as RFC 4514 writes names.
    issuer
        Who signed it.
    hosts
        Names and addresses that it is valid for; international names in their ASCII form.
    not_before
        Since when it is valid, in UTC.
    not_after
        Until when it is valid, in UTC.
    fingerprint
        SHA-256 of its DER form: 64 hexadecimal digits.
    is_ca
        Whether it may sign other certificates.
    """

    subject: str
    issuer: str
    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str
    is_ca: bool

    def days_left(self, now: datetime | None = None) -> float:
        """Return the days until it expires, negative if it has expired; `now` is aware, by default the clock's."""
        return (self.not_after - (now or datetime.now(UTC))) / timedelta(days=1)


def describe_certificates(path: Path) -> list[CertificateSummary]:
    """Return summaries of the certificates in a PEM file, in their order.

    Raises
    ------
    FednnUNetError
        If the file cannot be read, or has no certificate.
    """
    certificates = read_certificates(path)
    with parsing(path):
        return [summary_of(certificate) for certificate in certificates]


def check_server_certificate(certificate: Path, key: Path, now: datetime | None = None) -> bytes:
    """Refuse a certificate and a key with which the coordinator could not, or should not, listen.

    Parameters
    ----------
    certificate
        PEM file whose first certificate is the coordinator's; those that lead to the CA may follow.
    key
        PEM file with its private key.
    now
        The time at which it must be valid, aware; by default the clock's.

    Returns
    -------
    SHA-256 of the DER form of the coordinator's certificate: 32 bytes.

    Raises
    ------
    FednnUNetError
        If a file cannot be read, if others can read the key, if it is encrypted or does not belong to the
        certificate, or if the certificate is not valid now or not made for a server.
    """
    leaf = read_certificates(certificate)[0]
    with parsing(certificate):
        summary = summary_of(leaf)
    private_key = read_key(key, must_be_private=True)
    with parsing(certificate):
        fits = belongs(private_key, leaf)
    if not fits:
        raise FednnUNetError(
            f"The key {key} does not belong to the first certificate in {certificate}: "
            f"give two that were made together, or make new ones with {RENEW}."
        )
    if summary.is_ca and not summary.hosts:
        raise FednnUNetError(
            f"{certificate} is the certificate of a CA, which no node accepts from a coordinator: "
            f"give the coordinator's own, {SERVER_CERTIFICATE} and {SERVER_KEY}."
        )
    check_period(summary, str(certificate), f"renew it with {RENEW}", now or datetime.now(UTC))
    return leaf.fingerprint(SHA256())


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, at least one."""
    with reading(path, "certificate"):
        content = path.read_bytes()
    with parsing(path):
        return x509.load_pem_x509_certificates(content)


def read_key(path: Path, must_be_private: bool) -> PrivateKeyTypes:
    """Return the private key of a PEM file."""
    with reading(path, "key"), path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read()
    if must_be_private and os.name == "posix" and mode & 0o077:
        raise FednnUNetError(f"Other users can read the private key {path}: run: chmod 600 {shlex.quote(str(path))}")
    try:
        return load_pem_private_key(content, password=None)
    except TypeError as error:
        raise FednnUNetError(
            f"The private key {path} is encrypted: decrypt it, with: "
            f"openssl pkey -in {shlex.quote(str(path))} -out NEW_FILE"
        ) from error
    except _PARSING_ERRORS as error:
        raise FednnUNetError(f"{path} is not a private key in PEM format: choose another file.") from error


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn errors of a file into a sentence about `what`."""
    try:
        yield
    except FileNotFoundError as error:
        raise FednnUNetError(
            f"The {what} {path} does not exist: correct the path, or make one with 'fednnunet certificates create'."
        ) from error
    except OSError as error:
        raise FednnUNetError(f"The {what} {path} cannot be read ({error.strerror}): give a readable file.") from error


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn errors in a file's content into a sentence."""
    try:
        yield
    except _PARSING_ERRORS as error:
        raise FednnUNetError(f"{path} contains no valid certificate in PEM format: choose another file.") from error


def summary_of(certificate: x509.Certificate) -> CertificateSummary:
    """Return the summary of a certificate."""
    return CertificateSummary(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        hosts=_hosts(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(SHA256()).hex(),
        is_ca=is_ca_certificate(certificate),
    )


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def is_ca_certificate(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is one of a CA."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def belongs(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Return whether a private key is that of a certificate."""
    return _public_bytes(key.public_key()) == _public_bytes(certificate.public_key())


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check_period(summary: CertificateSummary, what: str, remedy: str, now: datetime) -> None:
    """Refuse a certificate, called `what`, that is not valid at `now`."""
    if now > summary.not_after:
        raise FednnUNetError(f"{what} has expired on {written(summary.not_after)}: {remedy}.")
    if now < summary.not_before:
        raise FednnUNetError(
            f"{what} is not valid before {written(summary.not_before)}: set this machine's clock, if it is wrong, "
            "or wait until then."
        )


def written(moment: datetime) -> str:
    """Return a moment as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
