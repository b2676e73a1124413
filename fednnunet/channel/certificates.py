"""Certificates for the coordinator: made by a private certificate authority (CA), shown, and checked before use.

The CA signs the coordinator's certificate. Nodes trust the CA, so that the coordinator's certificate can be renewed
without them. The form of the certificates is that of RFC 5280, how names are matched is RFC 9525.
"""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import idna
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fednnunet.errors import FednnUNetError
from fednnunet.files import replacing

CA_CERTIFICATE = "ca.pem"
CA_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"

DAYS = 825
"""Days for which a server certificate is valid, if nobody says otherwise."""

MOST_DAYS = 3650
"""Days for which a CA is valid; a certificate cannot outlive it."""

_CLOCKS_DIFFER = timedelta(minutes=10)
_LONGEST_ORGANIZATION = 64  # characters, of RFC 5280, appendix A.1
_LONGEST_NAME = 253  # characters, of RFC 1035
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_RENEW = "'fednnunet certificates create --overwrite'"
_KEY_PURPOSES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_PARSING_ERRORS = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for files that are malformed, or that it does not know."""

_SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class CertificateSummary:
    """What people want to know of a certificate.

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


@dataclass(frozen=True)
class CreatedCertificates:
    """What `create_certificates` has made.

    Parameters
    ----------
    ca
        The CA's certificate.
    server
        The coordinator's certificate.
    ca_is_new
        Whether the CA was made now; if not, the nodes have its certificate already.
    """

    ca: CertificateSummary
    server: CertificateSummary
    ca_is_new: bool


@dataclass(frozen=True)
class _Authority:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: _SigningKey


def create_certificates(
    hosts: Sequence[str],
    folder: Path,
    days: int = DAYS,
    organization: str | None = None,
    *,
    overwrite: bool = False,
    now: datetime | None = None,
) -> CreatedCertificates:
    """Make a CA and a server certificate that it signs; if `folder` has a CA, only the server certificate is made.

    Four files are written: ``ca.pem``, ``ca.key``, ``server.pem`` and ``server.key``. Only their owner can read the
    keys. All keys are ECDSA on the curve P-256.

    Parameters
    ----------
    hosts
        What the nodes call the coordinator by: DNS names, IPv4 and IPv6 addresses.
    folder
        Where the files go; it is made, for its owner only, if there is none.
    days
        Days for which the server certificate is valid, 1 to 3650; it ends with the CA at the latest.
    organization
        Who runs the federation; stands in the certificates that are made.
    overwrite
        Whether a server certificate that is there is replaced.
    now
        Time of issue, for tests; by default the clock's.

    Raises
    ------
    FednnUNetError
        If a host, `days` or `organization` is not valid, if there is a server certificate and `overwrite` is not set,
        if the CA that is there cannot be used, or if the files cannot be written.
    """
    now = now or datetime.now(UTC)
    names = _general_names(hosts)
    if not 1 <= days <= MOST_DAYS:
        raise FednnUNetError(f"A certificate cannot be valid for {days} days: give 1 to {MOST_DAYS} with --days.")
    if organization is not None and not 1 <= len(organization) <= _LONGEST_ORGANIZATION:
        raise FednnUNetError(f"The organization is not named by 1 to {_LONGEST_ORGANIZATION} characters: shorten it.")
    old_ca = _find_authority(folder, now)
    _check_free_for_server(folder, old_ca, overwrite)
    with _writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca = old_ca
        if ca is None:
            ca = _make_authority(organization, now)
            _write_pair(folder / CA_CERTIFICATE, ca.certificate, folder / CA_KEY, ca.key)
        server, key = _issue(names, ca, days, organization, now)
        _write_pair(folder / SERVER_CERTIFICATE, server, folder / SERVER_KEY, key)
    return CreatedCertificates(_summary(ca.certificate), _summary(server), old_ca is None)


def describe_certificates(path: Path) -> list[CertificateSummary]:
    """Return what stands in the certificates of a PEM file, in their order.

    Raises
    ------
    FednnUNetError
        If the file cannot be read, or has no certificate.
    """
    certificates = _read_certificates(path)
    with _parsing(path):
        return [_summary(certificate) for certificate in certificates]


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
    leaf = _read_certificates(certificate)[0]
    with _parsing(certificate):
        summary = _summary(leaf)
    private_key = _read_key(key, must_be_private=True)
    with _parsing(certificate):
        fits = _belongs(private_key, leaf)
    if not fits:
        raise FednnUNetError(
            f"The key {key} does not belong to the first certificate in {certificate}: "
            f"give two that were made together, or make new ones with {_RENEW}."
        )
    if summary.is_ca and not summary.hosts:
        raise FednnUNetError(
            f"{certificate} is the certificate of a CA, which no node accepts from a coordinator: "
            f"give the coordinator's own, {SERVER_CERTIFICATE} and {SERVER_KEY}."
        )
    _check_period(summary, str(certificate), f"renew it with {_RENEW}", now or datetime.now(UTC))
    return leaf.fingerprint(SHA256())


def _general_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    if not hosts:
        raise FednnUNetError("A certificate must name the coordinator: give its name or address with --host.")
    return list(dict.fromkeys(_general_name(host) for host in hosts))


def _general_name(host: str) -> x509.GeneralName:
    """Return a host as it stands in a certificate."""
    text = host.strip()
    if "*" in text:
        raise FednnUNetError(f"{host!r} stands for more than one host: name the coordinator's own with --host.")
    try:
        bracketed = text.startswith("[") and text.endswith("]")
        address = IPv6Address(text[1:-1]) if bracketed else ip_address(text)
    except ValueError:
        return x509.DNSName(_dns_name(text))
    if address.is_unspecified:
        raise FednnUNetError(
            f"{host!r} is no address that nodes could connect to: give the name or address by which they reach it."
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
            f"{text!r} is no valid host name or IP address: give what the nodes call the coordinator by, without a "
            "port, such as coordinator.example.org or 192.0.2.7."
        )
    return name


def _find_authority(folder: Path, now: datetime) -> _Authority | None:
    """Return the CA that is kept in `folder`, ``None`` if there is none."""
    path, key_path = folder / CA_CERTIFICATE, folder / CA_KEY
    has_certificate, has_key = os.path.lexists(path), os.path.lexists(key_path)
    if not has_certificate and not has_key:
        return None
    if not (has_certificate and has_key):
        there, missing = (CA_CERTIFICATE, CA_KEY) if has_certificate else (CA_KEY, CA_CERTIFICATE)
        raise FednnUNetError(
            f"{folder} has {there} but not {missing}, and only with both can a certificate be issued: "
            f"put {missing} beside it, or make a new CA in another folder with --out."
        )
    certificate = _read_certificates(path)[0]
    with _parsing(path):
        summary = _summary(certificate)
    if not summary.is_ca:
        raise FednnUNetError(
            f"{path} is not the certificate of a CA: put the CA's there, or make a new CA in another folder with --out."
        )
    new_one = f"make a new CA in another folder with --out, and give its {CA_CERTIFICATE} to every hospital"
    _check_period(summary, f"The CA {path}", new_one, now)
    return _Authority(certificate, _signing_key(key_path, path, certificate))


def _signing_key(key_path: Path, path: Path, certificate: x509.Certificate) -> _SigningKey:
    """Return the private key of a CA."""
    key = _read_key(key_path, must_be_private=False)
    with _parsing(path):
        fits = _belongs(key, certificate)
    if not fits:
        raise FednnUNetError(
            f"The key {key_path} does not belong to the CA {path}: put the key there that was made with it, "
            "or make a new CA in another folder with --out."
        )
    if not isinstance(key, _SigningKey):
        raise FednnUNetError(
            f"The key {key_path} is neither an ECDSA nor an RSA key: make a new CA in another folder with --out."
        )
    return key


def _check_free_for_server(folder: Path, ca: _Authority | None, overwrite: bool) -> None:
    if not any(os.path.lexists(folder / name) for name in (SERVER_CERTIFICATE, SERVER_KEY)):
        return
    if ca is None:  # a new one beside it would shut out every node that trusts the old one
        raise FednnUNetError(
            f"{folder} has a server certificate or key but not the CA that belongs to it: put {CA_CERTIFICATE} and "
            f"{CA_KEY} there to renew it, or make a new CA in another folder with --out."
        )
    if not overwrite:
        raise FednnUNetError(
            f"{folder} has a server certificate or key already: give --overwrite to replace it, "
            "or choose another folder with --out."
        )


def _make_authority(organization: str | None, now: datetime) -> _Authority:
    """Return a new CA, which signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("FednnU-Net federation CA", organization)
    builder = (
        _builder(name, name, key, now - _CLOCKS_DIFFER, now + timedelta(days=MOST_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
    )
    return _Authority(builder.sign(key, SHA256()), key)


def _issue(
    names: list[x509.GeneralName], ca: _Authority, days: int, organization: str | None, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a new server certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("FednnU-Net coordinator", organization)  # clients look at the alternative names only
    start = max(now - _CLOCKS_DIFFER, ca.certificate.not_valid_before_utc)
    end = min(now + timedelta(days=days), ca.certificate.not_valid_after_utc)
    builder = (
        _builder(subject, ca.certificate.subject, key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_authority_identifier(ca), critical=False)
    )
    return builder.sign(ca.key, SHA256()), key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    """Return what all certificates have in common."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str, organization: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _key_usage(*purposes: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{purpose: purpose in purposes for purpose in _KEY_PURPOSES})


def _authority_identifier(ca: _Authority) -> x509.AuthorityKeyIdentifier:
    try:
        own = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:  # a CA that was made elsewhere
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _write_pair(path: Path, certificate: x509.Certificate, key_path: Path, key: _SigningKey) -> None:
    """Write a certificate and its key; both are on the disk before one of them takes an old one's place."""
    with replacing(path) as new_certificate, replacing(key_path) as new_key:
        _write(new_key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        _write(new_certificate, certificate.public_bytes(Encoding.PEM), mode=0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that has its mode from the moment it exists."""
    path.unlink(missing_ok=True)  # left by a process that died
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FednnUNetError(
            f"Certificates cannot be written to {folder} ({error.strerror}): give a folder with --out in which "
            "you may write and there is room."
        ) from error


def _read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, at least one."""
    with _reading(path, "certificate"):
        content = path.read_bytes()
    with _parsing(path):
        return x509.load_pem_x509_certificates(content)


def _read_key(path: Path, must_be_private: bool) -> PrivateKeyTypes:
    """Return the private key of a PEM file."""
    with _reading(path, "key"), path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read()
    if must_be_private and os.name == "posix" and mode & 0o077:
        raise FednnUNetError(
            f"Not only its owner can use the private key {path}: run: chmod 600 {shlex.quote(str(path))}"
        )
    try:
        return load_pem_private_key(content, password=None)
    except TypeError as error:
        raise FednnUNetError(
            f"The private key {path} is encrypted: decrypt it, with: "
            f"openssl pkey -in {shlex.quote(str(path))} -out NEW_FILE"
        ) from error
    except _PARSING_ERRORS as error:
        raise FednnUNetError(f"{path} is no private key in PEM format: give the right file.") from error


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FednnUNetError(
            f"There is no {what} {path}: give the right path, or make one with 'fednnunet certificates create'."
        ) from error
    except OSError as error:
        raise FednnUNetError(
            f"The {what} {path} cannot be read ({error.strerror}): give a file that you may read."
        ) from error


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    try:
        yield
    except _PARSING_ERRORS as error:
        raise FednnUNetError(f"{path} holds no valid certificate in PEM format: give the right file.") from error


def _summary(certificate: x509.Certificate) -> CertificateSummary:
    return CertificateSummary(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        hosts=_hosts(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(SHA256()).hex(),
        is_ca=_is_ca(certificate),
    )


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _belongs(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    return _public_bytes(key.public_key()) == _public_bytes(certificate.public_key())


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_period(summary: CertificateSummary, what: str, remedy: str, now: datetime) -> None:
    if now > summary.not_after:
        raise FednnUNetError(f"{what} has expired on {_written(summary.not_after)}: {remedy}.")
    if now < summary.not_before:
        raise FednnUNetError(
            f"{what} is not valid before {_written(summary.not_before)}: set this machine's clock, if it is wrong, "
            "or wait until then."
        )


def _written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
