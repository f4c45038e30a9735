"""
The watch, by which a node hears of the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from pexservice.stores.etcd.caller import Unanswered
from pexservice.stores.etcd.records import Cursor, Keys, Message, text, write_cursor
from pexservice.stores.etcd.watch import Lines, Watch


def _line(revision: int) -> bytes:
    event = {
        "kv": {
            "key": text(b"p/cursor"),
            "mod_revision": str(revision + 7),
            "value": write_cursor(revision, 1, 0, "a"),
        }
    }
    return json.dumps({"result": {"header": {}, "events": [event]}}).encode() + b"\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_lines(size: int) -> None:
    """
    The cursor is heard in whatever pieces the stream comes, and whatever else it says.
    """
    heard: list[Cursor] = []
    said = b"".join(
        [
            b'{"result":{"header":{},"created":true}}\n',
            _line(1),
            b'{"error":{"message":"no"}}\nnothing of the kind\n[]\n',
            b'{"result":{"events":[{"type":"DELETE","kv":{"key":"cA=="}}]}}\n',
            _line(2),
        ]
    )
    lines = Lines(heard.append)
    for start in range(0, len(said), size):
        lines.take(said[start : start + size])
    assert heard == [Cursor(8, 1, 1, 0, "a"), Cursor(9, 2, 1, 0, "a")]


def test_goes_on() -> None:
    """
    A watch begins again after a pause, however its stream ends, until it is stopped.
    """
    streams: list[Deferred[None]] = []
    pauses: list[Deferred[None]] = []
    heard: list[Cursor] = []

    async def stream(message: Message, take: Callable[[bytes], None]) -> None:
        assert message == {"create_request": {"key": text(b"p/cursor")}}
        streams.append(Deferred())
        take(_line(len(streams)))
        await streams[-1]

    async def pause(_: int) -> None:
        pauses.append(Deferred())
        await pauses[-1]

    watch = Watch(stream, pause, Keys(b"p/"), heard.append)
    streams[0].callback(None)
    assert (len(streams), len(pauses)) == (1, 1)
    pauses[0].callback(None)
    streams[1].errback(Unanswered("broken", sent=True))
    pauses[1].callback(None)
    assert [each.revision for each in heard] == [1, 2, 3]
    watch.stop()
    assert len(pauses) == 2


def test_stopped_while_its_stream_breaks() -> None:
    """
    A stream that breaks when its watch is stopped is not begun again.
    """
    streams: list[Message] = []
    pauses: list[int] = []

    async def stream(message: Message, _: Callable[[bytes], None]) -> None:
        streams.append(message)
        await Deferred(lambda waiting: waiting.errback(Unanswered("no host", sent=False)))

    async def pause(attempt: int) -> None:
        pauses.append(attempt)

    watch = Watch(stream, pause, Keys(b"p/"), lambda _: None)
    watch.stop()
    assert (len(streams), pauses) == (1, [])
