"""Certificates that clients accept, and those that nobody should: real handshakes on loopback."""

import argparse
import contextlib
import errno
import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fednnunet.cli.certificates import add_arguments, run_certificates
from fednnunet.errors import FednnUNetError
from fednnunet.security.certificates import (
    CreatedCertificates,
    check_server_certificate,
    create_certificates,
    describe_certificates,
)

NAME = "coordinator.example.org"
HOSTS = [NAME, "192.0.2.7", "2001:db8::7"]
FILES = {"ca.pem", "ca.key", "server.pem", "server.key"}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_PATIENCE = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder with spaces" / "certificates"
    create_certificates(HOSTS, folder)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _refused(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(FednnUNetError) as refusal:
        function(*arguments, **options)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    return sentence


@contextlib.contextmanager
def _listening(folder: Path) -> Iterator[int]:
    """Answer one TLS connection on loopback; gives the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_PATIENCE)

        def answer() -> None:
            connection, _ = listener.accept()
            connection.settimeout(_PATIENCE)
            with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def _handshake(folder: Path, host: str, ca: Path) -> bytes:
    """Return the digest of the certificate of a server that `host`, as a strict client of `ca` sees it, is."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        _listening(folder) as port,
        socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        assert secured.recv(5) == b"hello"
        certificate = secured.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).fingerprint(SHA256())


def _verification_error(folder: Path, host: str, ca: Path) -> str:
    with pytest.raises(ssl.SSLCertVerificationError) as error:
        _handshake(folder, host, ca)
    return error.value.verify_message


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_accepts_the_coordinator_by_each_of_its_names(folder: Path, host: str) -> None:
    digest = _handshake(folder, host, folder / "ca.pem")
    assert digest == check_server_certificate(folder / "server.pem", folder / "server.key")


def test_a_client_accepts_an_international_name(tmp_path: Path) -> None:
    create_certificates(["Köln.example"], tmp_path)
    _handshake(tmp_path, "köln.example", tmp_path / "ca.pem")


@pytest.mark.parametrize("host", ["other.example.org", f"www.{NAME}", "example.org", "192.0.2.8", "2001:db8::8"])
def test_a_client_refuses_another_host(folder: Path, host: str) -> None:
    assert "mismatch" in _verification_error(folder, host, folder / "ca.pem")


def test_a_client_refuses_another_ca(folder: Path, tmp_path: Path) -> None:
    create_certificates(HOSTS, tmp_path / "other")
    assert "issuer" in _verification_error(folder, NAME, tmp_path / "other" / "ca.pem")


def test_a_client_refuses_a_certificate_that_has_expired(tmp_path: Path) -> None:
    create_certificates([NAME], tmp_path, days=30, now=datetime.now(UTC) - timedelta(days=31))
    assert _verification_error(tmp_path, NAME, tmp_path / "ca.pem") == "certificate has expired"


def test_a_client_whose_clock_is_minutes_late_accepts_a_new_certificate(folder: Path) -> None:
    for name in ("ca.pem", "server.pem"):
        (summary,) = describe_certificates(folder / name)
        assert timedelta(minutes=5) <= datetime.now(UTC) - summary.not_before <= timedelta(hours=1)


def test_after_a_renewal_nodes_that_trust_the_ca_accept_the_coordinator_by_its_new_name(folder: Path) -> None:
    before = _contents(folder)
    created = create_certificates(["new.example.org"], folder, overwrite=True)
    after = _contents(folder)
    assert not created.ca_is_new
    assert set(after) == FILES
    assert {name for name in FILES if before[name] == after[name]} == {"ca.pem", "ca.key"}
    old_copy = folder.parent / "ca of a hospital.pem"
    old_copy.write_bytes(before["ca.pem"])
    _handshake(folder, "new.example.org", old_copy)
    assert "mismatch" in _verification_error(folder, NAME, old_copy)


def _grpc_call(folder: Path, ca: Path) -> grpc.StatusCode:
    """Call what the server does not have; only a client that trusts it learns so."""
    credentials = grpc.ssl_server_credentials(
        [((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())]
    )
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    trust = grpc.ssl_channel_credentials(root_certificates=ca.read_bytes())
    try:
        with grpc.secure_channel(f"127.0.0.1:{port}", trust, options=[("grpc.enable_http_proxy", 0)]) as channel:
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary("/nothing/there")(b"", timeout=_PATIENCE)
            return error.value.code()
    finally:
        server.stop(None).wait()


def test_grpc_accepts_the_pair_and_refuses_another_ca(tmp_path: Path) -> None:
    for name in ("own", "other"):
        create_certificates(["127.0.0.1"], tmp_path / name)
    assert _grpc_call(tmp_path / "own", tmp_path / "own" / "ca.pem") == grpc.StatusCode.UNIMPLEMENTED
    assert _grpc_call(tmp_path / "own", tmp_path / "other" / "ca.pem") == grpc.StatusCode.UNAVAILABLE


def test_the_ca_may_sign_certificates_and_the_server_may_not(folder: Path) -> None:
    ca, server = (x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in ("ca.pem", "server.pem"))
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = server.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (False, True)
    purposes = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own
    assert ca.serial_number != server.serial_number
    for certificate in (ca, server):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"


def test_only_the_owner_can_read_keys_and_a_new_folder_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    old_umask = os.umask(0)
    try:
        create_certificates(HOSTS, folder)
        create_certificates(HOSTS, folder, overwrite=True)
    finally:
        os.umask(old_umask)
    assert {path.name: _mode(path) for path in folder.iterdir()} == {
        "ca.pem": 0o644,
        "server.pem": 0o644,
        "ca.key": 0o600,
        "server.key": 0o600,
    }
    assert _mode(folder) == 0o700


def test_only_the_owner_can_read_keys_from_the_moment_they_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, int] = {}
    real = os.open

    def watched(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        number = real(path, flags, mode, **options)
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            made[Path(path).name.removesuffix(".tmp")] = stat.S_IMODE(os.fstat(number).st_mode)
        return number

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("a mode was changed afterwards")

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(os, "chmod", unwanted)
    monkeypatch.setattr(os, "fchmod", unwanted)
    create_certificates(HOSTS, tmp_path)
    assert set(made) == FILES
    assert (made["ca.key"], made["server.key"]) == (0o600, 0o600)


def test_a_key_that_a_dead_process_left_for_all_to_read_is_not_written_to(folder: Path) -> None:
    left = folder / "server.key.tmp"
    left.write_text("half of a k")
    left.chmod(0o644)
    watcher = left.open()
    create_certificates(HOSTS, folder, overwrite=True)
    with watcher:
        assert watcher.read() == "half of a k"
    assert _mode(folder / "server.key") == 0o600
    assert set(_contents(folder)) == FILES


def test_a_folder_that_exists_keeps_its_mode_and_its_other_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("mine")
    create_certificates(HOSTS, tmp_path)
    assert _mode(tmp_path) == 0o755
    assert set(_contents(tmp_path)) == FILES | {"notes.txt"}


def test_a_second_call_is_refused_and_changes_nothing(folder: Path) -> None:
    before = _contents(folder)
    assert "--overwrite" in _refused(create_certificates, HOSTS, folder)
    assert _contents(folder) == before


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
def test_one_half_of_a_pair_is_not_overwritten_unasked(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert "already has a server certificate or key" in _refused(create_certificates, HOSTS, folder)
    create_certificates(HOSTS, folder, overwrite=True)
    _handshake(folder, NAME, folder / "ca.pem")


def test_a_ca_alone_issues_without_overwrite(folder: Path) -> None:
    for name in ("server.pem", "server.key"):
        (folder / name).unlink()
    assert not create_certificates(HOSTS, folder).ca_is_new
    _handshake(folder, NAME, folder / "ca.pem")


@pytest.mark.parametrize("missing", ["ca.pem", "ca.key"])
def test_half_a_ca_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    before = _contents(folder)
    assert f"but not {missing}" in _refused(create_certificates, HOSTS, folder, overwrite=True)
    assert _contents(folder) == before


def test_no_new_ca_is_made_beside_a_server_certificate_of_a_ca_that_is_elsewhere(folder: Path) -> None:
    for name in ("ca.pem", "ca.key"):
        (folder / name).unlink()
    before = _contents(folder)
    assert "not the CA that belongs to it" in _refused(create_certificates, HOSTS, folder, overwrite=True)
    assert _contents(folder) == before


def test_a_ca_that_has_expired_is_refused(tmp_path: Path) -> None:
    create_certificates(HOSTS, tmp_path, now=LONG_AGO)
    late = LONG_AGO + timedelta(days=3651)
    sentence = _refused(create_certificates, HOSTS, tmp_path, overwrite=True, now=late)
    assert "has expired on 2029-12-29 00:00 UTC" in sentence
    assert "every hospital" in sentence


def test_a_ca_of_the_future_is_refused(tmp_path: Path) -> None:
    create_certificates(HOSTS, tmp_path)
    assert "clock" in _refused(create_certificates, HOSTS, tmp_path, overwrite=True, now=LONG_AGO)


def test_a_key_of_another_ca_is_refused(folder: Path, tmp_path: Path) -> None:
    create_certificates(HOSTS, tmp_path / "other")
    (folder / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    assert "does not belong to the CA" in _refused(create_certificates, HOSTS, folder, overwrite=True)


def test_a_server_certificate_does_not_sign(folder: Path) -> None:
    for kind in ("pem", "key"):
        (folder / f"ca.{kind}").write_bytes((folder / f"server.{kind}").read_bytes())
    assert "is not the certificate of a CA" in _refused(create_certificates, HOSTS, folder, overwrite=True)


def test_a_certificate_ends_with_its_ca_at_the_latest(tmp_path: Path) -> None:
    first = create_certificates(HOSTS, tmp_path, days=100, now=LONG_AGO)
    assert first.server.not_after == LONG_AGO + timedelta(days=100)
    second = create_certificates(HOSTS, tmp_path, overwrite=True, now=LONG_AGO + timedelta(days=3600))
    assert second.server.not_after == second.ca.not_after == LONG_AGO + timedelta(days=3650)


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("Coordinator.Example.ORG.", "coordinator.example.org"),
        ("localhost", "localhost"),
        (" gpu-01 ", "gpu-01"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:DB8:0::7]", "2001:db8::7"),
        ("::1", "::1"),
        ("klinikum-münchen.de", "xn--klinikum-mnchen-8vb.de"),
        ("straße.de", "xn--strae-oqa.de"),
        ("xn--kln-sna.example", "xn--kln-sna.example"),
        ("1and1.example", "1and1.example"),
        ("a" * 63 + ".de", "a" * 63 + ".de"),
    ],
)
def test_a_host_is_written_as_clients_look_for_it(tmp_path: Path, host: str, written: str) -> None:
    assert create_certificates([host], tmp_path).server.hosts == (written,)


def test_addresses_are_written_as_addresses_and_each_host_once(tmp_path: Path) -> None:
    create_certificates(["::1", "Localhost", "[::1]", "localhost", "127.0.0.1"], tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [type(name) for name in names] == [x509.IPAddress, x509.DNSName, x509.IPAddress]
    assert describe_certificates(tmp_path / "server.pem")[0].hosts == ("::1", "localhost", "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("*.example.org", "matches more than one host"),
        ("", "is not a valid host name"),
        ("host:8080", "without a port"),
        ("https://host.example", "is not a valid host name"),
        ("[::1]:8080", "is not a valid host name"),
        ("[127.0.0.1]", "is not a valid host name"),
        ("256.0.0.1", "is not a valid host name"),
        ("10.0.1", "is not a valid host name"),
        ("2001:db8::g", "is not a valid host name"),
        ("two words", "is not a valid host name"),
        ("line\nbreak", "is not a valid host name"),
        ("my_host", "is not a valid host name"),
        ("-host", "is not a valid host name"),
        ("a..b", "is not a valid host name"),
        ("ü..b", "is not a valid host name"),
        ("xn--\N{LATIN SMALL LETTER U WITH DIAERESIS}", "is not a valid host name"),
        ("xn--0.example", "is not a valid host name"),
        ("a" * 64 + ".de", "is not a valid host name"),
        (".".join(["a" * 60] * 5), "is not a valid host name"),
        ("0.0.0.0", "not an address that nodes can connect to"),
        ("[::]", "not an address that nodes can connect to"),
        ("fe80::1%eth0", "leave out '%eth0'"),
    ],
)
def test_a_host_that_no_client_could_look_for_is_refused(tmp_path: Path, host: str, complaint: str) -> None:
    sentence = _refused(create_certificates, [NAME, host], tmp_path / "new")
    assert complaint in sentence
    assert repr(host) in sentence
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"hosts": []}, "--host"),
        ({"days": 0}, "for 0 days: give 1 to 3650"),
        ({"days": 3651}, "for 3651 days: give 1 to 3650"),
        ({"organization": ""}, "1 to 64 characters"),
        ({"organization": "x" * 65}, "1 to 64 characters"),
    ],
)
def test_what_no_certificate_can_say_is_refused(tmp_path: Path, arguments: dict[str, Any], complaint: str) -> None:
    sentence = _refused(create_certificates, **{"hosts": HOSTS, "folder": tmp_path / "new", **arguments})
    assert complaint in sentence
    assert not (tmp_path / "new").exists()


def test_the_organization_stands_in_both_certificates(tmp_path: Path) -> None:
    created = create_certificates(HOSTS, tmp_path, organization="Universität, Köln")
    assert "O=Universität\\, Köln" in created.ca.subject
    assert "O=Universität\\, Köln" in created.server.subject
    assert created.server.issuer == created.ca.subject


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "certificates"
    assert f"cannot be written to {folder} (Not a directory)" in _refused(create_certificates, HOSTS, folder)


@pytest.mark.parametrize("full_at", [1, 2, 3])
def test_a_full_disk_leaves_the_old_pair(folder: Path, full_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _contents(folder)
    real = os.fsync
    calls = 0

    def sync(number: int) -> None:
        nonlocal calls
        if stat.S_ISREG(os.fstat(number).st_mode):
            calls += 1
            if calls == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(os, "fsync", sync)
    sentence = _refused(create_certificates, HOSTS, folder, overwrite=True)
    assert f"cannot be written to {folder} (No space left on device)" in sentence
    assert _contents(folder) == before


def test_a_summary_tells_what_openssl_tells(folder: Path) -> None:
    (ca,), (server,) = describe_certificates(folder / "ca.pem"), describe_certificates(folder / "server.pem")
    assert (ca.is_ca, server.is_ca) == (True, False)
    assert (ca.hosts, server.hosts) == ((), tuple(HOSTS))
    der = ssl.PEM_cert_to_DER_cert((folder / "server.pem").read_text())
    digest = check_server_certificate(folder / "server.pem", folder / "server.key")
    assert server.fingerprint == digest.hex() == x509.load_der_x509_certificate(der).fingerprint(SHA256()).hex()
    assert len(digest) == 32
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    (told,) = context.get_ca_certs()
    for moment, field in ((ca.not_before, "notBefore"), (ca.not_after, "notAfter")):
        assert moment.tzinfo is UTC
        assert moment.timestamp() == ssl.cert_time_to_seconds(str(told[field]))


def test_days_left_count_down_to_below_zero(tmp_path: Path) -> None:
    server = create_certificates(HOSTS, tmp_path, days=10, now=LONG_AGO).server
    assert server.days_left(LONG_AGO) == 10
    assert server.days_left(LONG_AGO + timedelta(days=10, hours=12)) == -0.5


def test_all_certificates_of_a_file_are_described_in_their_order(folder: Path) -> None:
    chain = folder / "chain.pem"
    chain.write_bytes((folder / "server.pem").read_bytes() + (folder / "ca.pem").read_bytes())
    assert describe_certificates(chain) == [
        *describe_certificates(folder / "server.pem"),
        *describe_certificates(folder / "ca.pem"),
    ]
    assert len(check_server_certificate(chain, folder / "server.key")) == 32


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!\n",
    ],
)
def test_what_is_no_certificate_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "odd.pem"
    path.write_bytes(content)
    for sentence in (
        _refused(describe_certificates, path),
        _refused(check_server_certificate, path, folder / "server.key"),
    ):
        assert f"{path} contains no valid certificate in PEM format" in sentence


def test_a_missing_certificate_a_key_and_a_folder_are_told_apart(folder: Path) -> None:
    missing = folder / "none.pem"
    assert f"The certificate {missing} does not exist" in _refused(describe_certificates, missing)
    assert "no valid certificate" in _refused(describe_certificates, folder / "server.key")
    assert f"{folder} cannot be read (Is a directory)" in _refused(describe_certificates, folder)


def test_a_missing_key_and_what_is_no_key_are_told_apart(folder: Path) -> None:
    certificate, key = folder / "server.pem", folder / "odd.key"
    assert f"The key {key} does not exist" in _refused(check_server_certificate, certificate, key)
    key.touch(mode=0o600)
    key.write_bytes(certificate.read_bytes())
    assert f"{key} is not a private key in PEM format" in _refused(check_server_certificate, certificate, key)


def test_the_key_of_another_certificate_is_refused(folder: Path) -> None:
    sentence = _refused(check_server_certificate, folder / "server.pem", folder / "ca.key")
    assert f"{folder / 'ca.key'} does not belong to the first certificate in {folder / 'server.pem'}" in sentence
    assert "fednnunet certificates create --overwrite" in sentence


def test_an_encrypted_key_is_refused(folder: Path) -> None:
    path = folder / "server.key"
    key = load_pem_private_key(path.read_bytes(), password=None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    sentence = _refused(check_server_certificate, folder / "server.pem", path)
    assert f"is encrypted: decrypt it, with: openssl pkey -in '{path}'" in sentence


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_use_is_refused(folder: Path, mode: int) -> None:
    path = folder / "server.key"
    path.chmod(mode)
    assert f"chmod 600 '{path}'" in _refused(check_server_certificate, folder / "server.pem", path)
    path.chmod(0o400)
    assert len(check_server_certificate(folder / "server.pem", path)) == 32


def test_a_certificate_is_checked_against_the_time(tmp_path: Path) -> None:
    server = create_certificates(HOSTS, tmp_path, days=10, now=LONG_AGO).server
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    second = timedelta(seconds=1)
    for accepted in (server.not_before, server.not_after):
        assert check_server_certificate(certificate, key, accepted).hex() == server.fingerprint
    late = _refused(check_server_certificate, certificate, key, server.not_after + second)
    assert f"{certificate} has expired on 2020-01-11 00:00 UTC" in late
    assert "fednnunet certificates create --overwrite" in late
    early = _refused(check_server_certificate, certificate, key, server.not_before - second)
    assert "is not valid before 2019-12-31 23:50 UTC" in early
    assert "has expired" in _refused(check_server_certificate, certificate, key)


def test_the_certificate_of_the_ca_is_not_taken_for_the_coordinators(folder: Path) -> None:
    sentence = _refused(check_server_certificate, folder / "ca.pem", folder / "ca.key")
    assert "server.pem" in sentence


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def _command(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="fednnunet certificates")
    add_arguments(parser)
    return run_certificates(parser.parse_args(words))


def test_the_command_creates_and_tells_where_each_file_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a [b] c"
    words = ["create", "--host", NAME, "192.0.2.7", "--out", str(folder), "--host", "::1", "--days", "90"]
    assert _command(*words) == 0
    output = capsys.readouterr().out
    assert str(folder) in output
    places = {line.split()[0]: line for line in output.splitlines() if line.startswith(("ca.", "server."))}
    assert "every hospital" in places["ca.pem"]
    assert "offline" in places["ca.key"]
    assert "coordinator" in places["server.key"]
    (summary,) = describe_certificates(folder / "server.pem")
    assert summary.hosts == (NAME, "192.0.2.7", "::1")
    assert 89.9 < summary.days_left() <= 90
    assert summary.fingerprint in output
    assert "The CA is new" in output
    assert _command(*words, "--overwrite") == 0
    assert "nodes need no new files" in capsys.readouterr().out


def test_the_command_shows_a_folder_and_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _command("show", str(folder)) == 0
    output = capsys.readouterr().out
    for name in ("ca.pem", "server.pem"):
        (summary,) = describe_certificates(folder / name)
        assert summary.fingerprint in output
        assert f"{summary.not_after:%Y-%m-%d}" in output
    assert _command("show", str(folder / "ca.pem")) == 0
    assert describe_certificates(folder / "server.pem")[0].fingerprint not in capsys.readouterr().out


def test_the_command_tells_what_has_expired_in_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    created: CreatedCertificates = create_certificates(HOSTS, tmp_path, days=10, now=LONG_AGO)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert _command("show", str(tmp_path / "server.pem")) == 0
    assert "\x1b[1;31mexpired" in capsys.readouterr().out
    assert created.ca.days_left() > 0
    assert _command("show", str(tmp_path / "ca.pem")) == 0
    assert "expired" not in capsys.readouterr().out


def test_a_folder_without_certificates_is_refused(tmp_path: Path) -> None:
    assert "give a file instead" in _refused(_command, "show", str(tmp_path))


@pytest.mark.parametrize("words", [["create", "--out", "x"], ["create", "--host", "x"], ["show"], []])
def test_the_command_needs_its_arguments(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        _command(*words)
