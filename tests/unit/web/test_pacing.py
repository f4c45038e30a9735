"""
Tests of pacing: long work is done in pieces, with rest in between.
"""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from pexservice.metrics import Metrics
from pexservice.web.api import Api
from pexservice.web.pacing import REST, Pacing
from tests.support.fakes import Turns, now
from tests.support.wire import Server


class Work:
    """
    Work in pieces that take a second each.

    @ivar done: the numbers of the pieces that are done.
    """

    def __init__(self) -> None:
        self.clock = Turns()
        self.pacing = Pacing(self.clock.callLater, self.clock.seconds)
        self.done: list[int] = []

    def begin(self, number: int) -> Deferred[None]:
        """
        Ask for piece C{number}.
        """

        def work() -> None:
            self.clock.rightNow += 1
            self.done.append(number)

        return self.pacing.run(work)


def test_one_by_one() -> None:
    """
    The first piece is done at once, and the others in order.

    Each of the others is done when the time of rest is over.  Then the next piece is done
    at once again.
    """
    work = Work()
    for number in range(3):
        work.begin(number)
    for expected in ([0], [0, 1], [0, 1, 2], [0, 1, 2]):
        assert work.done == expected
        work.clock.turn(REST - 0.5)
        assert work.done == expected
        work.clock.turn(0.5)
    assert not work.clock.calls
    work.begin(3)
    assert work.done == [0, 1, 2, 3]


def test_leaving() -> None:
    """
    A client that cancels its piece costs the others no time.
    """
    work = Work()
    work.begin(0)
    leaving = [work.begin(1) for _ in range(3)]
    work.begin(2)
    for each in leaving:
        each.addErrback(lambda failure: failure.trap(CancelledError))
        each.cancel()
    work.clock.turn(REST)
    assert work.done == [0, 2]


def test_failing() -> None:
    """
    A piece that fails has had its time, and the next one gets its own.
    """
    work = Work()
    with pytest.raises(ZeroDivisionError):
        now(work.pacing.run(lambda: 1 // 0))
    failed = work.pacing.run(lambda: 1 // 0)
    work.begin(1)
    work.clock.turn()
    with pytest.raises(ZeroDivisionError):
        now(failed)
    work.clock.turn()
    assert work.done == [1]


def test_without_pacing() -> None:
    """
    Where the rest is over at once, no piece waits.
    """
    pacing = Pacing(lambda _, call: call())
    assert [now(pacing.run(lambda: 1)) for _ in range(3)] == [1, 1, 1]


def test_pages_of_the_history() -> None:
    """
    Other requests are answered between two pages of the history.

    Many clients ask for a page of the history at once.  A client that leaves is forgotten.
    """
    server = Server()
    api = Api(
        server.committer,
        server.performer,
        server.events,
        later=server.clock.callLater,
        scrape=Metrics(server.committer, server.fast_path).reply,
    )
    server.site.resource = api.resource()
    readers = [server.connect() for _ in range(4)]
    for each in readers:
        each.send(b"GET /history HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [bool(each.received) for each in readers] == [True, False, False, False]
    other = server.connect()
    other.send(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert other.received.endswith(b"ok\n")
    readers[1].lose()
    server.clock.turn(1)
    assert [bool(each.received) for each in readers] == [True, False, True, False]
    server.clock.turn(1)
    assert readers[3].received.startswith(b"HTTP/1.1 200 OK\r\n")
