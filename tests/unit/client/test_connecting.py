"""
Base URLs, tokens and keys.
"""

from __future__ import annotations

import pytest

from pexservice.client import BadAddress, Cursor
from pexservice.core.base_url import BaseURL


@pytest.mark.parametrize(
    ("text", "url", "host", "port"),
    [
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081", "127.0.0.1", 8081),
        (
            "https://a.example/fibonacci/",
            "https://a.example/fibonacci",
            "a.example",
            443,
        ),
        ("http://[::1]:8081", "http://[::1]:8081", "::1", 8081),
        ("http://a_b", "http://a_b", "a_b", 80),
    ],
)
def test_url_is_parsed_into_host_and_port(
    text: str, url: str, host: str, port: int
) -> None:
    assert BaseURL.parse(text) == BaseURL(text, url, host, port)


@pytest.mark.parametrize(
    ("text", "socket"),
    [
        ("http+unix://%2Frun%2Fpex.socket", "/run/pex.socket"),
        ("http+unix://%2Frun%2Fpex.socket/", "/run/pex.socket"),
        ("http+unix:///run/pex.socket", "/run/pex.socket"),
        ("unix:pex.socket", "pex.socket"),
    ],
)
def test_path_of_a_unix_socket_is_an_address(text: str, socket: str) -> None:
    assert BaseURL.parse(text) == BaseURL(text, "http://localhost", socket=socket)


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost:8081", "gopher://x", "http://", "http://:80", "http://a:0"),
        *("http://a:99999", "http://[", "http://a?b", "http://a#b", "http://u:p@a"),
        *("http://é", "http://a b", "http://a/\n", "unix:", "http+unix://"),
    ],
)
def test_wrong_url_raises_an_error_that_names_it_and_the_known_forms(text: str) -> None:
    with pytest.raises(BadAddress, match="use http://HOST:PORT") as caught:
        Cursor(text)
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é"])
def test_token_that_is_not_one_header_is_refused_and_not_quoted(token: str) -> None:
    with pytest.raises(BadAddress, match="visible ASCII") as caught:
        Cursor(token=token)
    assert not token or token not in str(caught.value)


def test_repr_shows_the_addresses_and_not_the_token() -> None:
    cursor = Cursor("http://a:1", "unix:b", token="hush")  # noqa: S106 no token of anybody
    assert repr(cursor) == "<Cursor http://a:1 unix:b>"
    assert repr(Cursor()) == "<Cursor http://127.0.0.1:8081>"
