"""What a node makes of the coordinator's certificate, directly and through a proxy."""

import contextlib
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.security.certificates import check_server_certificate, create_certificates
from fednnunet.transport.tls import (
    Endpoint,
    UntrustedError,
    authority,
    avoid_proxy,
    look_at,
    proxy_for,
    speaks_tls,
    without_password,
)
from tests.system.strangers import FalseCoordinator


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    create_certificates(["localhost"], tmp_path)
    return tmp_path


@pytest.fixture
def coordinator(trust: Path) -> Iterator[FalseCoordinator]:
    with FalseCoordinator(trust / "server.pem", trust / "server.key") as listening:
        yield listening


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


class _Proxy:
    """An HTTP proxy that can do nothing but CONNECT."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                request = b""
                while b"\r\n\r\n" not in request:
                    request += client.recv(1 << 16)
                self.requests.append(request.decode())
                host, _, port = request.split()[1].decode().rpartition(":")
                server = socket.create_connection((host, int(port)))
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=(source, target), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # who hangs up without reading all that was sent resets the connection
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_the_certificate_that_a_node_sees_is_the_one_that_the_coordinator_has(
    trust: Path, coordinator: FalseCoordinator
) -> None:
    seen = look_at(Endpoint("localhost", coordinator.port, authority(str(trust / "ca.pem"))))
    assert seen.digest == check_server_certificate(trust / "server.pem", trust / "server.key")
    assert seen.digest == hashlib.sha256(ssl.PEM_cert_to_DER_cert(seen.pem.decode())).digest()


def test_a_proxy_is_used_as_grpc_uses_it(
    trust: Path, coordinator: FalseCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint("localhost", coordinator.port, authority(str(trust / "ca.pem")))
    monkeypatch.setattr("fednnunet.transport.tls.is_loopback", lambda _: False)  # as if it were another machine
    proxy = _Proxy()
    monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{proxy.port}")
    look_at(endpoint)
    (request,) = proxy.requests
    assert request.startswith(f"CONNECT localhost:{coordinator.port} ")
    assert "Basic dXNlcjpzZWNyZXQ=" in request
    monkeypatch.setenv("no_proxy", "example.org,localhost")
    look_at(endpoint)
    assert len(proxy.requests) == 1
    proxy.close()


def test_which_proxy_is_taken_depends_on_names_and_endings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("coordinator.example.org") is None
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("grpc_proxy", "http://other:3129")
    monkeypatch.setenv("no_proxy", ".example.org, 10.0.0.1")
    found = proxy_for("coordinator.example.com")
    assert found is not None
    assert (found.hostname, found.port) == ("other", 3129)
    assert proxy_for("coordinator.EXAMPLE.org") is None
    assert proxy_for("10.0.0.1") is None
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    assert proxy_for("10.1.2.3") is None
    assert proxy_for("11.1.2.3") is not None
    for url in ("socks5://other:1080", "other:3129", "http://[::1", "http://other:port"):
        monkeypatch.setenv("grpc_proxy", url)
        assert proxy_for("11.1.2.3") is None
    monkeypatch.setenv("grpc_proxy", "")
    assert proxy_for("11.1.2.3") is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.9", "::1", "[::1]"])
def test_this_machine_is_reached_through_no_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("no_grpc_proxy", "example.com")
    assert proxy_for(host) is None
    for _ in range(2):
        avoid_proxy(host)
        assert os.environ["no_grpc_proxy"] == f"example.com,{host.strip('[]')}"
    avoid_proxy("192.0.2.7")
    assert os.environ["no_grpc_proxy"] == f"example.com,{host.strip('[]')}"


def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy:3128")
    proxy = proxy_for("coordinator.example.org")
    assert proxy is not None
    assert without_password(proxy) == "http://proxy:3128"


def test_nothing_older_than_tls_1_2_is_spoken(trust: Path) -> None:
    assert authority(str(trust / "ca.pem")).minimum_version == ssl.TLSVersion.TLSv1_2
    assert authority("system").verify_mode == ssl.CERT_REQUIRED


def test_whether_tls_is_spoken_is_found_out(coordinator: FalseCoordinator) -> None:
    assert speaks_tls(Endpoint("localhost", coordinator.port))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        assert not speaks_tls(Endpoint("localhost", listener.getsockname()[1]))


def test_nobody_there_is_no_reason_for_distrust(trust: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        look_at(Endpoint("localhost", port, authority(str(trust / "ca.pem"))))


@pytest.mark.parametrize(
    ("host", "ca", "complaint"),
    [
        ("127.0.0.1", "", "is for another host"),
        ("localhost", "other", "was not issued by the authority"),
    ],
)
def test_a_certificate_that_is_not_right_is_not_trusted(
    trust: Path, coordinator: FalseCoordinator, host: str, ca: str, complaint: str
) -> None:
    create_certificates(["localhost"], trust / "other")
    with pytest.raises(UntrustedError, match=complaint):
        look_at(Endpoint(host, coordinator.port, authority(str(trust / ca / "ca.pem"))))


def test_an_authority_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FednnUNetError, match="cannot be read"):
        authority(str(tmp_path / "missing.pem"))
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(FednnUNetError, match="contains no certificate"):
        authority(str(tmp_path / "empty.pem"))
