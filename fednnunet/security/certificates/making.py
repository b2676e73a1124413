"""Creates a certificate authority and the certificates that it signs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fednnunet.errors import FednnUNetError
from fednnunet.files import replacing
from fednnunet.security.certificates.host_names import general_names
from fednnunet.security.certificates.reading import (
    CA_CERTIFICATE,
    CA_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    CertificateSummary,
    belongs,
    check_period,
    parsing,
    read_certificates,
    read_key,
    summary_of,
)

DAYS = 825
"""Default validity of a server certificate, in days."""
MOST_DAYS = 3650
"""Days for which a CA is valid; a certificate cannot outlive it."""
_CLOCKS_DIFFER = timedelta(minutes=10)
_LONGEST_ORGANIZATION = 64  # characters, of RFC 5280, appendix A.1
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
_SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class CreatedCertificates:
    """Result of `create_certificates`.

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
    names = general_names(hosts)
    if not 1 <= days <= MOST_DAYS:
        raise FednnUNetError(f"A certificate cannot be valid for {days} days: give 1 to {MOST_DAYS} with --days.")
    if organization is not None and not 1 <= len(organization) <= _LONGEST_ORGANIZATION:
        raise FednnUNetError(f"The organization needs a name of 1 to {_LONGEST_ORGANIZATION} characters.")
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
    return CreatedCertificates(summary_of(ca.certificate), summary_of(server), old_ca is None)


def _find_authority(folder: Path, now: datetime) -> _Authority | None:
    """Return the CA in `folder`, ``None`` if there is none."""
    path, key_path = folder / CA_CERTIFICATE, folder / CA_KEY
    has_certificate, has_key = os.path.lexists(path), os.path.lexists(key_path)
    if not has_certificate and not has_key:
        return None
    if not (has_certificate and has_key):
        there, missing = (CA_CERTIFICATE, CA_KEY) if has_certificate else (CA_KEY, CA_CERTIFICATE)
        raise FednnUNetError(
            f"{folder} has {there} but not {missing}, and issuing a certificate needs both: "
            f"put {missing} beside it, or make a new CA in another folder with --out."
        )
    certificate = read_certificates(path)[0]
    with parsing(path):
        summary = summary_of(certificate)
    if not summary.is_ca:
        raise FednnUNetError(
            f"{path} is not the certificate of a CA: put the CA's there, or make a new CA in another folder with --out."
        )
    new_one = f"make a new CA in another folder with --out, and give its {CA_CERTIFICATE} to every hospital"
    check_period(summary, f"The CA {path}", new_one, now)
    return _Authority(certificate, _signing_key(key_path, path, certificate))


def _signing_key(key_path: Path, path: Path, certificate: x509.Certificate) -> _SigningKey:
    """Return the private key of a CA."""
    key = read_key(key_path, must_be_private=False)
    with parsing(path):
        fits = belongs(key, certificate)
    if not fits:
        raise FednnUNetError(
            f"The key {key_path} does not belong to the CA {path}: put the matching key there, "
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
            f"{folder} already has a server certificate or key: give --overwrite to replace it, "
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
    """Return the fields that all certificates share."""
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
            f"Certificates cannot be written to {folder} ({error.strerror}): give a writable folder with "
            "free space with --out."
        ) from error
