"""
The watch, by which a node hears of the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from pexservice.core.cursor import Cursor
from pexservice.stores.etcd.gateway import CallUnanswered, Watch
from pexservice.stores.etcd.http_gateway import _LineReceiver
from pexservice.stores.etcd.records import (
    CursorRecord,
    Message,
    base64_text,
    encode_cursor,
)
from tests.support.fake_etcd import FakeEtcd, FakeGateway


def _value(revision: int) -> str:
    return encode_cursor(Cursor(revision, 1), 0, "a", 9)


def _line(revision: int) -> bytes:
    event = {
        "kv": {
            "key": base64_text(b"p/cursor"),
            "mod_revision": str(revision + 7),
            "value": _value(revision),
        }
    }
    return json.dumps({"result": {"header": {}, "events": [event]}}).encode() + b"\n"


@define(eq=False)
class Way(FakeGateway):
    """
    A way to etcd whose streams and pauses end when the test says so.

    @ivar streams: the streams that were begun.
    @ivar pauses: the pauses between them.
    @ivar given_up: called with a stream that is cancelled.
    """

    streams: list[Deferred[None]] = Factory(list)
    pauses: list[Deferred[None]] = Factory(list)
    given_up: Callable[[Deferred[Any]], None] | None = None

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Begin a stream that has a cursor at once.
        """
        assert message == {"create_request": {"key": base64_text(b"p/cursor")}}
        self.streams.append(Deferred(self.given_up))
        take(_line(len(self.streams)))
        await self.streams[-1]

    async def pause(self, attempt: int) -> None:
        """
        Wait until the test continues.
        """
        self.pauses.append(Deferred())
        await self.pauses[-1]


def test_watch_starts_again_after_a_delay_until_it_is_stopped() -> None:
    """
    However its stream ends.
    """
    way = Way(FakeEtcd(), Clock())
    heard: list[CursorRecord] = []
    watch = Watch(way, b"p/cursor", heard.append)
    way.streams[0].callback(None)
    assert (len(way.streams), len(way.pauses)) == (1, 1)
    way.pauses[0].callback(None)
    way.streams[1].errback(CallUnanswered("broken", sent=True))
    way.pauses[1].callback(None)
    assert [record.cursor.revision for record in heard] == [1, 2, 3]
    watch.stop()
    assert len(way.pauses) == 2


def test_stopped_watch_does_not_start_again() -> None:
    """
    Its stream breaks at that moment.
    """
    broken = CallUnanswered("no host", sent=False)
    way = Way(FakeEtcd(), Clock(), given_up=lambda stream: stream.errback(broken))
    watch = Watch(way, b"p/cursor", lambda _: None)
    watch.stop()
    assert (len(way.streams), way.pauses) == (1, [])


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_cursor_is_heard_whatever_the_pieces_and_the_other_lines(size: int) -> None:
    heard: list[CursorRecord] = []
    watch = Watch(Way(FakeEtcd(), Clock()), b"p/cursor", heard.append)
    heard.clear()
    answer = b"".join(
        [
            b'{"result":{"header":{},"created":true}}\n',
            _line(1),
            b'{"error":{"message":"no"}}\nnothing of the kind\n[]\n',
            b'{"result":{"events":[{"type":"DELETE","kv":{"key":"cA=="}}]}}\n',
            _line(2),
        ]
    )
    receiver = _LineReceiver(watch._take)
    receiver.makeConnection(StringTransport())
    for start in range(0, len(answer), size):
        receiver.dataReceived(answer[start : start + size])
    assert heard == [
        CursorRecord(8, Cursor(1, 1), 0, "a", 9, _value(1)),
        CursorRecord(9, Cursor(2, 1), 0, "a", 9, _value(2)),
    ]
    watch.stop()
