"""
The parsing of a stream into events.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from pexservice.client.event_stream import (
    LONGEST,
    SILENCE,
    EventParser,
    EventStream,
    TooLong,
)

STREAM = (
    b"retry: 500\n\n:\n\nid: 7\ndata: a\n\nid: 8\r\ndata: b\r\ndata: c\r\n\r\nid: 9\n\n"
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_in_any_pieces(cuts: list[int]) -> None:
    """
    Events are the same wherever the bytes are cut.
    """
    parser, events = EventParser(), []
    at = 0
    for cut in [*sorted(cuts), len(STREAM)]:
        events += parser.feed(STREAM[at:cut])
        at = cut
    assert events == ["a", "b\nc"]


@pytest.mark.parametrize("data", [b"data: " + b"1" * LONGEST, b"data: 1234\n" * LONGEST])
def test_without_an_end(data: bytes) -> None:
    """
    Data that never becomes an event raises L{TooLong}.
    """
    parser = EventParser()
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    with pytest.raises(TooLong):
        list(map(parser.feed, pieces))


def test_the_newest() -> None:
    """
    A reader that is slower than the stream gets the newest event, and then the end.
    """
    stream = EventStream(Clock())
    stream.makeConnection(StringTransport())
    stream.dataReceived(b"data: 1\n\ndata: 2\n\n")
    stream.dataReceived(b"data: 3\n\n")
    stream.connectionLost()
    found: list[str | None] = []
    for _ in range(2):
        stream.next().addCallback(found.append)
    assert found == ["3", None]


def test_silence() -> None:
    """
    A stream on which nothing comes any more, not even a comment, is ended.
    """
    clock, transport = Clock(), StringTransport()
    stream = EventStream(clock)
    stream.makeConnection(transport)
    clock.advance(SILENCE - 1)
    stream.dataReceived(b":\n\n")
    clock.advance(SILENCE - 1)
    assert stream.ended is None
    found: list[str | None] = []
    stream.next().addCallback(found.append)
    clock.advance(1)
    assert stream.ended == f"{SILENCE:g} s of silence"
    assert transport.disconnecting
    assert found == [None]
    assert not clock.getDelayedCalls()
