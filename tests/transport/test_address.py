"""Names and addresses of a coordinator, as people write them."""

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.transport.address import is_unspecified, read_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        (" localhost ", "localhost"),
        ("coordinator.example.org.", "coordinator.example.org."),
        ("klinik-süd_1", "klinik-süd_1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::]", "::"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_name_or_an_address_is_a_host(text: str, host: str) -> None:
    assert read_host(text) == host


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("http://127.0.0.1", "is a URL: leave 'http://' out (--host 127.0.0.1)"),
        ("grpc://a.example.org:8443/x", "is a URL: leave 'grpc://' out (--host a.example.org --port 8443)"),
        ("https://[::1]:80/", "is a URL: leave 'https://' out (--host [::1] --port 80)"),
        ("http://", "is a URL"),
        ("127.0.0.1/", "contains a '/': leave that out (--host 127.0.0.1)"),
        ("127.0.0.1:8080", "includes a port: leave that out (--host 127.0.0.1 --port 8080)"),
        ("[::1]:8080", "includes a port: leave that out (--host [::1] --port 8080)"),
        ("localhost:", "is not an IP address"),
        ("1::2::3", "is not an IP address"),
        ("[127.0.0.1]", "is not an IP address"),
        ("127.0.0.256", "is not an IP address"),
        ("127.0.0", "is not an IP address"),
        ("my host", "is neither a host name"),
        ("user@host", "is neither a host name"),
        ("a..b", "is neither a host name"),
    ],
)
def test_what_is_no_host_is_told_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(FednnUNetError) as caught:
        read_host(text)
    assert told in str(caught.value)


def test_addresses_for_listening_only_are_known() -> None:
    assert all(is_unspecified(host) for host in ("0.0.0.0", "::", "[::]"))
    assert not any(is_unspecified(host) for host in ("127.0.0.1", "::1", "localhost"))
