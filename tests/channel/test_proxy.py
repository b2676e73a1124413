"""Which proxy stands between a node and its coordinator."""

import pytest

from fednnunet.channel.proxy import go_around_for_loopback, proxy_for, spelled


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_which_proxy_is_taken_depends_on_names_endings_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("coordinator.example.org") is None
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("grpc_proxy", "http://other:3129")
    monkeypatch.setenv("no_proxy", ".example.org, 10.0.0.1,192.0.2.0/24")
    found = proxy_for("coordinator.example.invalid")
    assert found is not None
    assert (found.hostname, found.port) == ("other", 3129)
    for host in ("coordinator.EXAMPLE.org", "10.0.0.1", "192.0.2.77"):
        assert proxy_for(host) is None
    assert proxy_for("198.51.100.1") == found


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_there_is_none_to_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "example.org")
    assert proxy_for(host) is None
    go_around_for_loopback("192.0.2.1")
    assert proxy_for("192.0.2.1") is not None
    go_around_for_loopback(host)
    monkeypatch.setattr("fednnunet.channel.proxy.is_loopback", lambda _: False)
    assert proxy_for(host) is None
    assert proxy_for("a.example.org") is None


@pytest.mark.parametrize(
    "url", ["https://proxy:3128", "proxy:3128", "socks5://proxy:1080", "http://[::1", "http://p:x"]
)
def test_what_grpc_does_not_take_for_a_proxy_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", url)
    assert proxy_for("192.0.2.1") is None


def test_a_proxy_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spelled(proxy_for("192.0.2.1")) == ""
    monkeypatch.setenv("http_proxy", "http://user:secret@proxy:3128/")
    assert spelled(proxy_for("192.0.2.1")) == ", through the proxy http://proxy:3128"
