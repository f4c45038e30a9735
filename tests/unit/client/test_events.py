"""
The stream of events, and the watch of a cursor.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from pexservice.client import Cursor, Refused, State, UnexpectedAnswer
from pexservice.client.events import (
    MAX_EVENT_BYTES,
    SILENCE_TIMEOUT_SECONDS,
    EventStream,
)
from pexservice.core.sequence import term_at
from tests.support.fake_service import Asked, Disturbance, FakeService, problem, state

STREAM = (
    b"retry: 500\n\n:\n\nevent: heartbeat\ndata: z\n\nid: 7\ndata: a\n\n"
    b"id: 8\r\ndata: b\r\ndata: c\r\n\r\nid: 9\n\n"
)


URL = "http://service.example/events"


def open_stream() -> tuple[EventStream, StringTransport]:
    stream, transport = EventStream(Clock(), URL), StringTransport()
    stream.makeConnection(transport)
    return stream, transport


def delivered(stream: EventStream) -> list[str | None]:
    """
    Return the message that the stream would deliver now, if there is one.
    """
    messages: list[str | None] = []
    stream.messages.get().addCallback(messages.append)
    return messages


@given(st.lists(st.integers(0, len(STREAM))))
def test_messages_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    stream, _ = open_stream()
    messages = delivered(stream)
    at = 0
    for cut in [*sorted(cuts), len(STREAM)]:
        stream.dataReceived(STREAM[at:cut])
        at = cut
    if messages == ["a"]:
        messages += delivered(stream)
    # The reader receives the newest message of those that arrived together.
    assert messages in (["a", "b\nc"], ["b\nc"])


@pytest.mark.parametrize(
    "data", [b"data: " + b"1" * MAX_EVENT_BYTES, b"data: 1234\n" * (MAX_EVENT_BYTES // 10)]
)
def test_message_without_an_end_ends_the_stream(data: bytes) -> None:
    stream, transport = open_stream()
    for at in range(0, len(data), 1000):
        stream.dataReceived(data[at : at + 1000])
    assert stream.ended
    assert transport.disconnecting


def test_slow_reader_receives_the_newest_message_and_then_the_end() -> None:
    stream, _ = open_stream()
    stream.dataReceived(b"data: 1\n\ndata: 2\n\n")
    stream.dataReceived(b"data: 3\n\n")
    stream.connectionLost()
    assert delivered(stream) == ["3"]
    assert delivered(stream) == [None]


class Watcher:
    """
    A program that watches the cursor, and has seen revision 0.

    @ivar seen: every state that it was given.
    @ivar ended: how its loop ended.
    """

    def __init__(self) -> None:
        self.service = FakeService(Clock())
        self.client = Cursor(
            "http://service.example",
            reactor=self.service.clock,
            agent=self.service.agent,
        )
        self.seen: list[State] = []
        self.ended: list[Any] = []
        self.watching = Deferred.fromCoroutine(self._watch())
        self.watching.addBoth(self.ended.append)
        self.service.agent.flush()

    async def _watch(self) -> None:
        async for new_state in self.client.watch():
            self.seen.append(new_state)

    def tell(self, *states: tuple[int, int]) -> None:
        """
        Send C{states} on the stream.
        """
        for revision, position in states:
            data = state(revision, position)
            self.service.tell(b"id: %d\ndata: %b\n\n" % (revision, data))

    @property
    def streams_asked(self) -> list[Asked]:
        """
        Return the requests for streams.
        """
        return [request for request in self.service.asked if request.path == "/events"]

    @property
    def revisions(self) -> list[int]:
        """
        Return the revisions of the states that were seen.
        """
        return [state.revision for state in self.seen]

    def pass_time(self, seconds: float) -> None:
        """
        Let time pass, and what is due happen.
        """
        for _ in range(int(seconds * 10)):
            self.service.clock.advance(0.1)
            self.service.agent.flush()


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def test_broken_stream_is_opened_again_after_a_read(watcher: Watcher) -> None:
    """
    No older state is shown, not even if the new stream's node is behind.
    """
    watcher.tell((5, 5), (6, 6))
    watcher.service.end_streams()
    for _ in range(7):
        watcher.service.step("next")
    assert len(watcher.streams_asked) == 1
    watcher.pass_time(2)
    streams = watcher.streams_asked
    assert [stream.headers["last-event-id"] for stream in streams] == ["0", "7"]
    watcher.tell((4, 9), (6, 6), (7, 7), (8, 8))
    assert watcher.revisions == [0, 5, 6, 7, 8]
    assert [state.value for state in watcher.seen] == [0, 5, 8, 13, 21]


def test_watch_yields_the_lower_state_of_a_restored_store(watcher: Watcher) -> None:
    watcher.tell((5, 5), (6, 6))
    watcher.service.end_streams()
    for _ in range(2):
        watcher.service.step("next")
    watcher.pass_time(2)
    watcher.tell((2, 2), (3, 3))
    assert watcher.revisions == [0, 5, 6, 2, 3]


@pytest.mark.parametrize(
    "disturbance",
    [
        problem(503, "too-many-streams", headers={"Retry-After": "10"}),
        Disturbance(status=502, body=b"<html>"),
        Disturbance(silent=True),
    ],
)
def test_failure_that_passes_is_retried(watcher: Watcher, disturbance: Disturbance) -> None:
    watcher.service.disturbances = [disturbance, None, disturbance, disturbance]
    watcher.service.end_streams()
    watcher.pass_time(40)
    assert len(watcher.service.asked) == 7
    assert len(watcher.streams_asked) == 4
    watcher.tell((6, 6))
    assert watcher.revisions == [0, 6]


def test_watch_opens_another_stream_after_silence(watcher: Watcher) -> None:
    watcher.pass_time(SILENCE_TIMEOUT_SECONDS - 1)
    watcher.service.tell(b":\n\n")
    watcher.pass_time(SILENCE_TIMEOUT_SECONDS - 1)
    assert len(watcher.streams_asked) == 1
    watcher.pass_time(3)
    assert len(watcher.streams_asked) == 2


def test_value_of_an_event_without_digits_is_computed(watcher: Watcher) -> None:
    watcher.service.tell(
        b'id: 7\ndata: {"position":30000,"digits":6270,"first":"1","last":"0",'
        b'"revision":7}\n\n'
    )
    _, seen = watcher.seen
    assert seen == State(revision=7, position=30_000)
    values = [int(term_at(position).value) for position in (29_999, 30_000, 30_001)]
    assert [seen.previous, seen.value, seen.next] == values


@pytest.mark.parametrize(
    ("disturbances", "error"),
    [
        ([problem(403, "cross-origin")], Refused),
        ([None, problem(403, "cross-origin")], Refused),
        ([None, Disturbance(status=200, body=b"<html>")], UnexpectedAnswer),
    ],
)
def test_refusal_of_the_read_or_of_the_stream_ends_the_watch(
    watcher: Watcher, disturbances: list[Disturbance | None], error: type[Exception]
) -> None:
    watcher.service.disturbances = [*disturbances]
    watcher.service.end_streams()
    watcher.pass_time(2)
    (ended,) = watcher.ended
    assert ended.check(error)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"hello", "JSON"),
        (b'{"position":1}', "a state of the cursor"),
        (b"[" * 50_000, "JSON"),
    ],
)
def test_event_that_is_not_a_state_ends_the_watch(
    watcher: Watcher, data: bytes, expected: str
) -> None:
    watcher.service.tell(b"data: %b\n\n" % data)
    (ended,) = watcher.ended
    assert ended.check(UnexpectedAnswer)
    assert f"/events: expected {expected}, got " in str(ended.value)


def test_closing_the_client_ends_the_watch_and_leaves_no_timer(watcher: Watcher) -> None:
    watcher.tell((5, 5))
    Deferred.fromCoroutine(watcher.client.close())
    watcher.pass_time(1)
    assert watcher.ended == [None]
    assert not watcher.service.clock.getDelayedCalls()


def test_cancelled_watch_leaves_no_timer_and_opens_no_stream(watcher: Watcher) -> None:
    watcher.tell((5, 5))
    watcher.watching.cancel()
    watcher.pass_time(5)
    assert len(watcher.ended) == 1
    assert len(watcher.service.asked) == 2
    assert not watcher.service.clock.getDelayedCalls()
