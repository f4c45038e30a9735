"""
Base URLs of the client.
"""

from __future__ import annotations

import pytest

from pexservice.client import BadAddress, Cursor
from pexservice.client.addresses import Address, parse_address


@pytest.mark.parametrize(
    ("text", "url", "host", "port", "plain"),
    [
        (
            "http://127.0.0.1:8081",
            "http://127.0.0.1:8081",
            "127.0.0.1",
            8081,
            "http://localhost:8081",
        ),
        (
            "https://a.example/fibonacci/",
            "https://a.example/fibonacci",
            "a.example",
            443,
            "https://localhost:443/fibonacci",
        ),
        (
            "http://[::1]:8081",
            "http://[::1]:8081",
            "::1",
            8081,
            "http://localhost:8081",
        ),
        ("http://a_b", "http://a_b", "a_b", 80, "http://localhost:80"),
    ],
)
def test_addresses(text: str, url: str, host: str, port: int, plain: str) -> None:
    """
    An address is parsed into the place where requests go.
    """
    address = parse_address(text)
    assert address == Address(text, url, host, port)
    assert address.plain_url == plain
    assert address.netloc in url


@pytest.mark.parametrize(
    ("text", "socket"),
    [
        ("http+unix://%2Frun%2Fpex.socket", "/run/pex.socket"),
        ("http+unix://%2Frun%2Fpex.socket/", "/run/pex.socket"),
        ("http+unix:///run/pex.socket", "/run/pex.socket"),
        ("unix:pex.socket", "pex.socket"),
    ],
)
def test_sockets(text: str, socket: str) -> None:
    """
    The path of a Unix socket is an address too.
    """
    assert parse_address(text) == Address(text, "http://localhost", socket=socket)


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost:8081", "gopher://x", "http://", "http://:80", "http://a:0"),
        *("http://a:99999", "http://[", "http://a?b", "http://a#b", "http://u:p@a"),
        *("http://é", "http://a b", "http://a/\n", "unix:", "http+unix://"),
    ],
)
def test_wrong_addresses(text: str) -> None:
    """
    Any wrong address raises one exception, which names the address and what it may be.
    """
    with pytest.raises(BadAddress, match="it must be http://HOST:PORT") as caught:
        Cursor(text)
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é"])
def test_tokens(token: str) -> None:
    """
    A token that would not be one header is refused, and not repeated in the error.
    """
    with pytest.raises(BadAddress, match="visible ASCII") as caught:
        Cursor(token=token)
    assert not token or token not in str(caught.value)
