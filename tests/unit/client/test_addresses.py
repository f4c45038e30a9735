"""
Base URLs.
"""

from __future__ import annotations

import pytest

from pexservice.client import BadAddress, Cursor
from pexservice.client.addresses import Address, parse_address


@pytest.mark.parametrize(
    ("text", "url", "socket"),
    [
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081", None),
        ("https://a.example/fibonacci/", "https://a.example/fibonacci", None),
        ("http://[::1]:8081", "http://[::1]:8081", None),
        ("http+unix://%2Frun%2Fpex.socket", "http://localhost", "/run/pex.socket"),
        ("http+unix://%2Frun%2Fpex.socket/", "http://localhost", "/run/pex.socket"),
        ("http+unix:///run/pex.socket", "http://localhost", "/run/pex.socket"),
        ("unix:pex.socket", "http://localhost", "pex.socket"),
    ],
)
def test_addresses(text: str, url: str, socket: str | None) -> None:
    """
    What is given becomes where requests go.
    """
    assert parse_address(text) == Address(text, url, socket)


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost:8081", "gopher://x", "http://", "http://:80", "http://a:0"),
        *("http://a:99999", "http://[", "http://a?b", "http://a#b", "http://u:p@a"),
        *("http://é", "http://a b", "http://a/\n", "unix:", "http+unix://"),
    ],
)
def test_what_is_none(text: str) -> None:
    """
    One exception, which names what was given and what it may be.
    """
    with pytest.raises(BadAddress, match="it must be http://HOST:PORT") as caught:
        Cursor(text)
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é"])
def test_tokens(token: str) -> None:
    """
    A token that would not be one header is refused, and not repeated.
    """
    with pytest.raises(BadAddress, match="visible ASCII") as caught:
        Cursor(token=token)
    assert not token or token not in str(caught.value)
