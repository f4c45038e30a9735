"""
Tests of the queue for long work: one piece at a time, a pause after each, clients in turns.
"""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred

from pexservice.web.fair_queue import PAUSE_FACTOR, FairQueue
from tests.support.fakes import Turns, now
from tests.support.wire import Server


class Work:
    """
    Work in pieces that take a second each.

    @ivar done: the names of the pieces that are done.
    """

    def __init__(self) -> None:
        self.clock = Turns()
        self.queue = FairQueue(self.clock.callLater, self.clock.seconds)
        self.done: list[str] = []

    def begin(self, name: str, client: str = "a") -> Deferred[None]:
        """
        Ask for a piece of work.
        """

        def work() -> None:
            self.clock.rightNow += 1
            self.done.append(name)

        return self.queue.run(work, client)


@pytest.fixture
def work() -> Work:
    return Work()


def test_work_is_done_one_by_one_with_a_pause_after_each_piece(work: Work) -> None:
    """
    The first piece is done at once, and the others in order, each after a pause.

    When nothing waits any more, the next piece is done at once again.
    """
    for name in "012":
        work.begin(name)
    for expected in ("0", "01", "012", "012"):
        assert "".join(work.done) == expected
        work.clock.turn(PAUSE_FACTOR - 0.5)
        assert "".join(work.done) == expected
        work.clock.turn(0.5)
    assert not work.clock.calls
    work.begin("3")
    assert work.done[-1] == "3"


def test_client_with_much_work_delays_another_by_one_piece(work: Work) -> None:
    """
    Clients take turns, whatever the order and the number of their pieces.
    """
    for number in range(300):
        work.begin(f"greedy {number}", "192.0.2.1")
    work.begin("honest 0", "192.0.2.2")
    work.begin("other 0", "192.0.2.3")
    work.begin("honest 1", "192.0.2.2")
    for _ in range(6):
        work.clock.turn(PAUSE_FACTOR)
    assert work.done == [
        *("greedy 0", "greedy 1", "honest 0", "other 0"),
        *("greedy 2", "honest 1", "greedy 3"),
    ]


def test_cancelled_work_takes_no_time_and_leaves_nothing_behind(work: Work) -> None:
    """
    A client that cancels its piece costs the others no time.
    """
    work.begin("0")
    waiting = [work.begin("1", client) for client in "aab"]
    work.begin("2")
    for deferred in waiting:
        deferred.addErrback(lambda failure: failure.trap(CancelledError))
        deferred.cancel()
    work.clock.turn(PAUSE_FACTOR)
    assert work.done == ["0", "2"]
    work.clock.turn(PAUSE_FACTOR)
    assert not work.queue._waiting


def test_work_that_fails_is_followed_by_a_pause_too(work: Work) -> None:
    """
    A piece of work that fails takes its turn like any other one.
    """
    with pytest.raises(ZeroDivisionError):
        now(work.queue.run(lambda: 1 // 0, "a"))
    failed = work.queue.run(lambda: 1 // 0, "a")
    work.begin("1")
    work.clock.turn()
    with pytest.raises(ZeroDivisionError):
        now(failed)
    work.clock.turn()
    assert work.done == ["1"]


def test_clients_take_turns_for_pages_of_the_history_and_others_wait_for_no_page() -> None:
    """
    The queue knows clients by their addresses.  A client that leaves is forgotten.
    """
    server = Server(pauses=True)
    greedy = [server.connect(IPv4Address("TCP", "192.0.2.1", n)) for n in range(1, 31)]
    honest = server.connect(IPv4Address("TCP", "192.0.2.2", 1))
    for wire in (*greedy, honest):
        wire.send(b"GET /history HTTP/1.1\r\nHost: h\r\n\r\n")
    other = server.ask(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert other.received.endswith(b"ok\n")
    greedy[1].lose()
    for served in (1, 2, 2):
        assert sum(bool(wire.received) for wire in greedy) == served
        assert not greedy[1].received
        server.clock.turn(1)
    assert honest.received.startswith(b"HTTP/1.1 200 OK\r\n")
