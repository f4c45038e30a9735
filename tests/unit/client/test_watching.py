"""
A watch of the cursor, which sees it go forward.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pexservice.client import Cursor, Refused, State, UnexpectedAnswer
from pexservice.client.event_stream import SILENCE
from pexservice.core.sequence import term_at
from tests.support.fake_service import Disturbance, FakeService, problem, state


class Watcher:
    """
    A program that watches the cursor.

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
        self.watching: Deferred[None] | None = None

    def begin(self) -> Deferred[None]:
        """
        Begin to watch.
        """

        async def watch() -> None:
            async for each in self.client.watch():
                self.seen.append(each)

        self.watching = Deferred.fromCoroutine(watch())
        self.watching.addBoth(self.ended.append)
        return self.watching

    def tell(self, *states: tuple[int, int]) -> None:
        """
        Send C{states} on the stream.
        """
        for revision, position in states:
            data = state(revision, position)
            self.service.tell(b"id: %d\ndata: %b\n\n" % (revision, data))

    @property
    def revisions(self) -> list[int]:
        """
        Return the revisions of the states that were seen.
        """
        return [each.revision for each in self.seen]

    def pass_time(self, seconds: float) -> None:
        """
        Let time pass, and what is due happen.
        """
        for _ in range(int(seconds * 10)):
            self.service.clock.advance(0.1)
            self.service.agent.flush()


@pytest.fixture
def watcher() -> Watcher:
    """
    Provide a watcher that has begun.
    """
    made = Watcher()
    made.begin()
    return made


def test_states(watcher: Watcher) -> None:
    """
    Each state that is sent comes, with its values.
    """
    watcher.tell((5, 5), (6, 6), (8, 8))
    assert watcher.revisions == [5, 6, 8]
    assert [each.value for each in watcher.seen] == [5, 8, 21]
    assert not watcher.ended


def test_begun_again(watcher: Watcher) -> None:
    """
    A stream that ends is begun again after a pause, from the last state that was seen.

    No state that is not newer is shown, not even by a node that is behind.
    """
    watcher.tell((5, 5), (6, 6))
    watcher.service.end_streams()
    assert len(watcher.service.asked) == 1
    watcher.pass_time(2)
    assert len(watcher.service.asked) == 2
    assert "last-event-id" not in watcher.service.asked[0].headers
    assert watcher.service.asked[1].headers["last-event-id"] == "6"
    watcher.tell((4, 9), (6, 6), (7, 7))
    assert watcher.revisions == [5, 6, 7]


@pytest.mark.parametrize(
    "disturbance",
    [
        problem(503, "too-many-streams", headers={"Retry-After": "10"}),
        Disturbance(status=502, body=b"<html>"),
        Disturbance(silent=True),
    ],
)
def test_not_yet(watcher: Watcher, disturbance: Disturbance) -> None:
    """
    A failure that passes is waited for.
    """
    watcher.tell((5, 5))
    watcher.service.disturbances = [disturbance] * 3
    watcher.service.end_streams()
    watcher.pass_time(40)
    assert len(watcher.service.asked) == 5
    watcher.tell((6, 6))
    assert watcher.revisions == [5, 6]


def test_asked_to_wait(watcher: Watcher) -> None:
    """
    A client that is told when to come back does not come sooner.
    """
    told = problem(503, "too-many-streams", headers={"Retry-After": "10"})
    watcher.service.disturbances = [told]
    watcher.service.end_streams()
    watcher.pass_time(30)
    _, second, third = watcher.service.asked
    assert 10 <= third.time - second.time < 11


def test_silence(watcher: Watcher) -> None:
    """
    A stream on which nothing comes, not even a comment, is given up.
    """
    watcher.pass_time(SILENCE - 1)
    watcher.service.tell(b":\n\n")
    watcher.pass_time(SILENCE - 1)
    assert len(watcher.service.asked) == 1
    watcher.pass_time(3)
    assert len(watcher.service.asked) == 2


def test_long_values(watcher: Watcher) -> None:
    """
    An event without the digits leads to the value all the same.
    """
    watcher.service.tell(
        b'id: 7\ndata: {"position":30000,"digits":6270,"first":"1","last":"0",'
        b'"revision":7}\n\n'
    )
    (found,) = watcher.seen
    assert (found.revision, found.position) == (7, 30_000)
    assert found.value == int(term_at(30_000).value)
    assert found.digits == term_at(30_000).text.decode()
    assert found.previous == int(term_at(29_999).value)
    assert found.next == int(term_at(30_001).value)


def test_refused(watcher: Watcher) -> None:
    """
    A refusal that would be the same again ends the watch.
    """
    watcher.service.disturbances = [problem(403, "cross-origin")]
    watcher.service.end_streams()
    watcher.pass_time(2)
    (ended,) = watcher.ended
    assert ended.check(Refused)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"hello", "JSON"),
        (b'{"position":1}', "a state of the cursor"),
        (b"[" * 50_000, "JSON"),
    ],
)
def test_no_state(watcher: Watcher, data: bytes, expected: str) -> None:
    """
    An event that is no state ends the watch.
    """
    watcher.service.tell(b"data: %b\n\n" % data)
    (ended,) = watcher.ended
    assert ended.check(UnexpectedAnswer)
    assert f"/events: expected {expected}, got " in str(ended.value)


def test_closed(watcher: Watcher) -> None:
    """
    Closing the client ends the watch without an error, and leaves no timer.
    """
    watcher.tell((5, 5))
    Deferred.fromCoroutine(watcher.client.close())
    watcher.pass_time(1)
    assert watcher.ended == [None]
    assert not watcher.service.clock.getDelayedCalls()


def test_cancelled(watcher: Watcher) -> None:
    """
    A watch that is cancelled leaves no timer, and does not begin again.
    """
    watcher.tell((5, 5))
    assert watcher.watching is not None
    watcher.watching.cancel()
    watcher.pass_time(5)
    assert len(watcher.ended) == 1
    assert len(watcher.service.asked) == 1
    assert not watcher.service.clock.getDelayedCalls()
