"""
Tests of requests that Twisted's parser lets pass and the channel refuses.

Tests of the single empty line that is passed over are here as well.
"""

from __future__ import annotations

import re

import pytest

from pexservice.server.limits import REQUEST_TIMEOUT_SECONDS
from tests.support.wire import Server

HEAD = b"POST /next HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
STEP = b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"


def answers(sent: bytes) -> tuple[bytes, bool, int]:
    """
    Return what comes back, whether the connection is closed, and how many steps were made.
    """
    server = Server()
    wire = server.connect()
    wire.send(sent)
    wire.turns()
    return wire.received, wire.closed, server.committer.durable.revision


@pytest.mark.parametrize(
    "trailers",
    [
        b"no colon\r\n",
        b": no name\r\n",
        b"a name: value\r\n",
        b"name : value\r\n",
        b"name: a\nb\r\n",
        b"name: a\rb\r\n",
        b"name: a\0b\r\n",
        b"name: a\r\n folded\r\n",
        # For a parser that takes a bare LF, the body ends here, and a step begins.
        b"\n" + STEP[:-2],
        STEP[:-2],
    ],
)
def test_malformed_trailers_are_refused_with_all_behind_them(trailers: bytes) -> None:
    """
    Another server could have seen another end of the request.
    """
    received, closed, revision = answers(HEAD + b"0\r\n" + trailers + b"\r\n" + STEP)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.endswith(b"malformed trailers; send headers, or none\n")
    assert received.count(b"HTTP/1.1") == 1
    assert (closed, revision) == (True, 0)


@pytest.mark.parametrize("trailers", [b"", b"a: b\r\n", b"a:\r\nb: \xff\t \r\n"])
def test_well_formed_trailers_are_ignored(trailers: bytes) -> None:
    received, closed, revision = answers(HEAD + b"0\r\n" + trailers + b"\r\n" + STEP)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert (closed, revision) == (False, 2)


@pytest.mark.parametrize("byte", [b"\x7f", b"\x80", b"\xb0", b"\xff"])
@pytest.mark.parametrize("target", [b"/next%b", b"/next?%b", b"/%b"])
def test_request_line_beyond_ascii_is_refused(target: bytes, byte: bytes) -> None:
    """
    A request line with a byte beyond ASCII is refused.

    Twisted stops at 176 where it means octal 176.
    """
    sent = b"POST %b HTTP/1.1\r\nHost: h\r\n\r\n" % (target % byte)
    received, closed, revision = answers(sent + STEP)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.count(b"HTTP/1.1") == 1
    assert (closed, revision) == (True, 0)


@pytest.mark.parametrize("target", [b"example.com:443", b"example.com", b"*"])
def test_connect_gets_405_and_the_tunnel_bytes_are_not_read(target: bytes) -> None:
    sent = b"CONNECT %b HTTP/1.1\r\nHost: example.com:443\r\n\r\n" % target
    received, closed, revision = answers(sent + STEP)
    assert received.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert received.count(b"HTTP/1.1") == 1
    assert (closed, revision) == (True, 0)


EMPTY = b"\r\n"
LOOK = b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    ("chunks", "statuses"),
    [
        # Old browsers send an empty line behind each request.
        ([LOOK, EMPTY, LOOK, EMPTY, LOOK], [200, 200, 200]),
        ([EMPTY + LOOK, EMPTY, EMPTY + LOOK], [200, 400]),
        ([LOOK, EMPTY, EMPTY, LOOK], [200, 400]),
        ([LOOK + EMPTY, LOOK + EMPTY, LOOK], [200, 200, 200]),
    ],
)
@pytest.mark.parametrize("remembers", [True, False])
def test_one_empty_line_before_a_request_is_ignored(
    chunks: list[bytes],
    statuses: list[int],
    remembers: bool,  # noqa: FBT001 pytest passes it by its name
) -> None:
    """
    With a plan and without.
    """
    wire = Server(remembers=remembers).connect()
    for chunk in chunks:
        wire.send(chunk)
        wire.turns()
    assert [
        int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", wire.received)
    ] == statuses


def test_connection_with_only_an_empty_line_gets_408() -> None:
    """
    It is not idle.
    """
    server = Server()
    wire = server.connect()
    wire.send(EMPTY)
    server.clock.rightNow += REQUEST_TIMEOUT_SECONDS + 1
    server.connections.sweep()
    assert wire.received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
