"""
Base URLs, tokens and keys, and the limit for the head of a response.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.testing import AccumulatingProtocol, StringTransport
from twisted.python.failure import Failure

from pexservice.client import BadAddress, Cursor
from pexservice.client.connecting import MAX_HEAD_BYTES, BadHead, BoundingFactory
from pexservice.core.base_url import BaseURL


@pytest.mark.parametrize(
    ("text", "url", "place"),
    [
        ("https://a.example/f/", "https://a.example/f", ("a.example", 443)),
        ("http://[::1]:8081", "http://[::1]:8081", ("::1", 8081)),
        ("http://xn--4ca.A.", "http://xn--4ca.A.", ("xn--4ca.a.", 80)),
        ("http+unix://%2Frun%2Fpex.socket", "http://localhost", "/run/pex.socket"),
        ("http+unix://%2Frun%2Fpex.socket/", "http://localhost", "/run/pex.socket"),
        ("http+unix:///run/pex.socket", "http://localhost", "/run/pex.socket"),
        ("unix:pex.socket", "http://localhost", "pex.socket"),
    ],
)
def test_base_url_is_parsed_into_host_and_port_or_the_path_of_a_unix_socket(
    text: str, url: str, place: tuple[str, int] | str
) -> None:
    parsed = BaseURL.parse(text)
    assert (parsed.text, parsed.url) == (text, url)
    assert (parsed.socket or (parsed.host, parsed.port)) == place


WRONG_NAMES = ("a_b", "-a", "a-", "*", "x..y", "ab--c", "a" * 64, f"{'a.' * 126}aa")


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost:8081", "gopher://x", "http://", "http://:80", "http://a:0"),
        *("http://a:99999", "http://[", "http://a?b", "http://a#b", "http://u@a"),
        *("http://é", "http://a b", "http://a/\n", "unix:", "http+unix://"),
    ],
)
def test_wrong_url_raises_an_error_that_names_it_and_the_known_forms(text: str) -> None:
    with pytest.raises(BadAddress, match="use http://HOST:PORT") as caught:
        Cursor(text)
    assert repr(text.replace("u@", "...@")) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((f"http://{name}:1", f"{name!r} is not a host name") for name in WRONG_NAMES),
        ("https://xn--a", "https://xn--a: "),
        (f"unix:/{'a' * 107}", "a Unix socket must have at most 107 bytes"),
    ],
)
def test_host_name_or_socket_that_no_connection_can_use_is_refused_at_once(
    text: str, words: str
) -> None:
    with pytest.raises(BadAddress, match=re.escape(words)):
        Cursor(text)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é"])
def test_token_that_is_not_one_header_is_refused_and_not_quoted(token: str) -> None:
    with pytest.raises(BadAddress, match="visible ASCII") as caught:
        Cursor(token=token)
    assert not token or token not in str(caught.value)


def test_repr_shows_the_addresses_and_not_the_token() -> None:
    cursor = Cursor("http://a:1", "unix:b", token="hush")  # noqa: S106 no token of anybody
    assert repr(cursor) == "<Cursor http://a:1 unix:b>"
    assert repr(Cursor()) == "<Cursor http://127.0.0.1:8081>"


class Connection:
    """
    A connection whose responses have limits.
    """

    def __init__(self) -> None:
        self.transport = StringTransport()
        factory: Any = Factory.forProtocol(AccumulatingProtocol)
        factory.protocolConnectionMade = None
        self._protocol = BoundingFactory(factory).buildProtocol(None)
        self._protocol.makeConnection(self.transport)
        self.client: Any = self._protocol.wrappedProtocol

    def request(self) -> None:
        self._protocol.writeSequence([b"GET / HTTP/1.1\r\n\r\n"])

    def receive(self, data: bytes, piece_bytes: int = 1000) -> None:
        for start in range(0, len(data), piece_bytes):
            self._protocol.dataReceived(data[start : start + piece_bytes])
            if self.transport.disconnecting:
                self._protocol.connectionLost(Failure(ConnectionAbortedError()))
                return


RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n"
LONG = b"X: y\r\n" * (MAX_HEAD_BYTES // 6)


@pytest.mark.parametrize("piece_bytes", [1, 3, 1000])
def test_body_after_interim_responses_is_not_limited_like_a_head(piece_bytes: int) -> None:
    connection = Connection()
    for _ in range(2):
        connection.request()
        connection.receive(RESPONSE, piece_bytes)
        connection.receive(LONG * 2)
    assert connection.client.data == 2 * (RESPONSE + LONG * 2)
    assert not connection.transport.disconnecting


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n" + LONG * 2, "bytes of headers"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 10), "bytes of headers"),
        # Twisted's client reads this status as 100.
        (b"HTTP/1.1 0100 No\r\n\r\n" + LONG * 2, "expected HTTP, got 'X: y"),
        (b"SSH-2.0", "expected HTTP, got 'SSH-2"),
        (b"\x16", "expected HTTP, got"),
    ],
)
def test_endless_head_or_another_protocol_ends_the_connection(
    data: bytes, words: str
) -> None:
    connection = Connection()
    connection.request()
    connection.receive(data)
    error = connection.client.closedReason.value
    assert isinstance(error, BadHead)
    assert words in str(error)
    assert len(connection.client.data) <= MAX_HEAD_BYTES + 1000
