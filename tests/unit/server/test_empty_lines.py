"""
Tests of the empty line that a client may send before a request.
"""

from __future__ import annotations

import re

import pytest

from pexservice.server.limits import REQUEST_TIMEOUT_SECONDS
from tests.support.wire import Server

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
    The request may have a plan or not.
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
    The connection counts as one whose request is arriving, and not as idle.
    """
    server = Server()
    wire = server.connect()
    wire.send(EMPTY)
    server.clock.rightNow += REQUEST_TIMEOUT_SECONDS + 1
    server.connections.sweep()
    assert wire.received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
