"""
Tests of the connections that the limits close, and of the order in which they do it.
"""

from __future__ import annotations

import itertools
import socket
import time
from contextlib import suppress
from unittest.mock import Mock

import pytest
from attrs import define, field
from twisted.logger import capturedLogs

from pexservice.server.limits import (
    HANDSHAKE_TIMEOUT_SECONDS,
    KEEP_ALIVE_TIMEOUT_SECONDS,
    MAX_REFUSALS,
    REQUEST_TIMEOUT_SECONDS,
    STALL_TIMEOUT_SECONDS,
    Connections,
    Phase,
    count_delivered,
)
from tests.support.daemon import TIMEOUT_SECONDS
from tests.support.fakes import Turns

BUSY = Phase.PERFORMING


@define(eq=False)
class Fake:
    """
    A connection that writes down what happens to it.
    """

    last_active: float = 0.0
    phase: Phase = Phase.IDLE
    has_responded: bool = True
    receiving_since: float | None = None
    stalled_since: float | None = None
    taken: int | None = 0
    fate: list[str] = field(factory=list)

    def delivered_count(self) -> int | None:
        """
        Return the number that the test has set.
        """
        return self.taken

    def close(self) -> None:
        """
        Note that the connection was closed.
        """
        self.phase = Phase.CLOSING
        self.fate.append("closed")

    def time_out(self) -> None:
        """
        Note that the request was timed out.
        """
        self.fate.append("timed out")

    def abort(self) -> None:
        """
        Note that the connection was aborted.
        """
        self.fate.append("aborted")


@pytest.fixture
def clock() -> Turns:
    """
    Return a clock, which does not begin at 0, because some times use 0 for "never".
    """
    new_clock = Turns()
    new_clock.rightNow = 1000.0
    return new_clock


def table(
    limit: int, *connections: Fake, clock: Turns | None = None, client: str = ""
) -> Connections:
    """
    Return a table with C{connections} of C{client} in it.
    """
    new_connections = Connections(limit, (clock or Turns()).seconds)
    for connection in connections:
        assert new_connections.admit(connection, client)
    return new_connections


def sweep_each_second(connections: Connections, clock: Turns, seconds: int) -> None:
    for _ in range(seconds):
        connections.sweep()
        clock.rightNow += 1


def test_connections_make_room_in_the_order_of_the_limits() -> None:
    """
    The order in which they were opened does not matter.
    """
    in_order = [
        Fake(last_active=1.0),
        # Until it is closed, it holds a file descriptor.
        Fake(phase=Phase.CLOSING, last_active=2.0),
        Fake(last_active=3.0),
        Fake(phase=Phase.RECEIVING, receiving_since=4.0),
        Fake(phase=Phase.RECEIVING, receiving_since=5.0),
        # A new client has some time for its first request.
        Fake(has_responded=False, last_active=9.0),
    ]
    busy = Fake(phase=BUSY)
    connections = table(7, busy, *reversed(in_order))
    for fake in in_order:
        assert connections.admit(Fake(phase=BUSY))
        assert fake.fate == ["aborted"]
    assert not connections.admit(Fake())
    assert busy.fate == []
    assert (connections.accepted, connections.refused) == (13, 1)
    assert connections.closed["displaced"] == 6


def test_connection_that_became_busy_after_the_search_stays() -> None:
    """
    A connection that was busy after a search had found it stays.

    The others that the search found go one by one.
    """
    first, second, third = (Fake(last_active=float(n)) for n in range(3))
    connections = table(3, first, second, third)
    connections.admit(Fake(phase=BUSY))
    second.last_active = 5.0
    connections.admit(Fake(phase=BUSY))
    assert (first.fate, second.fate, third.fate) == (["aborted"], [], ["aborted"])


@pytest.mark.parametrize(("client", "loses"), [("", False), ("198.51.100.1", True)])
def test_flood_next_to_busy_connections_does_not_cost_a_search_each(
    client: str, *, loses: bool
) -> None:
    """
    If one client has all connections, it loses one of them to another client.
    """
    ticks = itertools.count(1000)
    connections = Connections(40, lambda: float(next(ticks)))
    search = Mock(wraps=connections._search)
    connections._search = search  # type: ignore[method-assign]
    for _ in range(40):
        connections.admit(Fake(phase=BUSY), client)
    for _ in range(100):
        assert not connections.admit(Fake(phase=BUSY), client)
    assert 1 < search.call_count < 20
    assert connections.admit(Fake(phase=BUSY), "192.0.2.1") == loses


def test_sweep_ends_idle_late_and_stalled_connections_only(clock: Turns) -> None:
    """
    The sweep closes an idle connection and times out a late request.

    It aborts a connection whose client reads nothing.
    """
    now = clock.rightNow
    fates = {
        "": Fake(last_active=now - KEEP_ALIVE_TIMEOUT_SECONDS),
        "closed": Fake(last_active=now - KEEP_ALIVE_TIMEOUT_SECONDS - 1),
        "timed out": Fake(phase=BUSY, receiving_since=now - REQUEST_TIMEOUT_SECONDS - 1),
        "aborted": Fake(phase=BUSY, stalled_since=now - STALL_TIMEOUT_SECONDS - 1),
    }
    # Each has as long as it may take, and not a moment longer.
    busy = Fake(phase=BUSY, last_active=0.0, receiving_since=now - REQUEST_TIMEOUT_SECONDS)
    slow = Fake(phase=BUSY, last_active=0.0, stalled_since=now - STALL_TIMEOUT_SECONDS)
    connections = table(10, *fates.values(), busy, slow, clock=clock)
    stalled_at = now - STALL_TIMEOUT_SECONDS
    for clock.rightNow in (stalled_at - 1, stalled_at, now):
        connections.sweep()
    for fate, fake in fates.items():
        assert fake.fate == ([fate] if fate else [])
    assert busy.fate == slow.fate == []
    assert [*connections.closed.items()] == [
        *(("idle", 1), ("slow", 1), ("stalled", 1), ("displaced", 0), ("flooding", 0))
    ]


def test_handshake_that_takes_too_long_ends_the_connection(clock: Turns) -> None:
    """
    A request on another connection has more time.
    """
    handshake = Fake(phase=Phase.HANDSHAKE, receiving_since=1000.0)
    request = Fake(phase=Phase.RECEIVING, receiving_since=1000.0)
    connections = table(2, handshake, request, clock=clock)
    clock.rightNow += HANDSHAKE_TIMEOUT_SECONDS
    connections.sweep()
    assert handshake.fate == []
    clock.rightNow += 1
    connections.sweep()
    assert (handshake.fate, request.fate) == (["aborted"], [])
    assert connections.closed["slow"] == 1


def test_client_that_reads_slowly_is_waited_for(clock: Turns) -> None:
    """
    A client that takes some of its answer now and then may take as long as it likes.

    Once the client has stopped, its connection is aborted.
    """
    steady = Fake(phase=BUSY, stalled_since=1000.0)
    connections = table(1, steady, clock=clock)
    for second in range(10 * STALL_TIMEOUT_SECONDS):
        steady.taken = second // (STALL_TIMEOUT_SECONDS - 1)
        sweep_each_second(connections, clock, 1)
    assert steady.fate == []
    sweep_each_second(connections, clock, 2 * STALL_TIMEOUT_SECONDS)
    assert "aborted" in steady.fate


def test_without_the_kernels_count_a_client_must_read_all_in_time(clock: Turns) -> None:
    """
    Where the kernel does not tell how much a client takes, all must be taken in time.

    A connection that is blocked again has its full time again.
    """
    blocked = Fake(phase=BUSY, taken=None)
    connections = table(1, blocked, clock=clock)
    for blocked.stalled_since in (1000.0, 1000.0 + STALL_TIMEOUT_SECONDS):
        sweep_each_second(connections, clock, STALL_TIMEOUT_SECONDS)
        assert blocked.fate == []
    sweep_each_second(connections, clock, 2)
    assert blocked.fate == ["aborted"]


def test_connection_that_cannot_be_closed_does_not_stop_the_sweep(clock: Turns) -> None:
    class Broken(Fake):
        """
        A connection that raises when it is closed.
        """

        def close(self) -> None:
            raise RuntimeError("broken")

    broken, idle = Broken(), Fake()
    connections = table(2, broken, idle, clock=clock)
    with capturedLogs() as events:
        connections.sweep()
    assert (broken.fate, idle.fate) == (["aborted"], ["closed"])
    assert len(connections) == 1
    assert [event["log_failure"].type for event in events] == [RuntimeError]


def test_connection_makes_room_when_no_descriptor_is_left() -> None:
    """
    The limit is not reached.
    """
    idle = Fake()
    connections = table(10, idle, Fake(phase=BUSY))
    assert connections.displace()
    assert idle.fate == ["aborted"]
    assert not connections.displace()


def test_client_above_its_share_makes_room_for_all_others() -> None:
    """
    It also loses a connection for its own new one.

    The connections of other clients stay, however long they are idle.
    """
    honest = [Fake(last_active=1.0) for _ in range(3)]
    connections = table(100, *honest, client="192.0.2.1")
    flood = [
        Fake(phase=Phase.RECEIVING, receiving_since=100.0 + n, last_active=100.0)
        for n in range(96)
    ]
    flood.append(Fake(phase=BUSY, stalled_since=99.0))
    for connection in flood:
        assert connections.admit(connection, "198.51.100.1")
    for number in range(10, 60):
        assert connections.admit(Fake(last_active=200.0), f"192.0.2.{number}")
        assert flood[number - 10].fate == ["aborted"]
    again = Fake(phase=Phase.RECEIVING, receiving_since=300.0)
    assert connections.admit(again, "198.51.100.1")
    assert [connection.fate for connection in honest] == [[], [], []]
    assert len(connections) == 100


def test_connections_that_return_after_closing_exclude_no_client() -> None:
    """
    Connections that come again as often as they are closed keep no other client out.

    This holds however long the machine takes for a search.
    """
    ticks = itertools.count(1000)
    connections = Connections(100, lambda: float(next(ticks)))
    for number in range(1000):
        fake = Fake(phase=Phase.RECEIVING, receiving_since=float(number))
        assert connections.admit(fake, "198.51.100.1")
        if number % 7 == 0:
            honest = Fake()
            assert connections.admit(honest, "192.0.2.1")
            assert honest.fate == []
            connections.remove(honest)


def test_client_that_keeps_all_its_connections_busy_keeps_no_other_client_out() -> None:
    """
    A connection on which it reads nothing is closed, and then its newest ones.

    It gets no place of the other clients.
    """
    busy = [Fake(phase=BUSY, last_active=float(n)) for n in range(39)]
    unread = Fake(phase=BUSY, stalled_since=1.0)
    connections = table(40, unread, *busy, client="198.51.100.1")
    others = [Fake(phase=BUSY) for _ in range(10)]
    for fake in others:
        assert connections.admit(fake, "192.0.2.1")
        assert unread.fate == ["aborted"]
    assert not connections.admit(Fake(phase=BUSY), "198.51.100.1")
    assert [fake.fate for fake in busy] == [[]] * 30 + [["aborted"]] * 9
    assert [fake.fate for fake in others] == [[]] * 10


def test_stopping_worker_waits_only_for_clients_whose_requests_it_performs() -> None:
    idle, busy = Fake(has_responded=False), Fake(phase=BUSY)
    half = Fake(phase=Phase.RECEIVING, receiving_since=1.0)
    unread = Fake(phase=BUSY, stalled_since=1.0)
    connections = table(4, idle, busy, half, unread)
    connections.close_idle()
    assert not any(fake.fate for fake in (idle, busy, half, unread))
    connections.close_waiting()
    assert (idle.fate, busy.fate) == (["closed"], [])
    assert (half.fate, unread.fate) == (["aborted"], ["aborted"])


def test_connections_of_a_proxy_have_no_share() -> None:
    """
    A proxy stands for many clients.
    """
    proxied = [Fake(last_active=100.0 + n) for n in range(38)]
    connections = table(40, *proxied)
    other = Fake(last_active=1.0)
    connections.admit(other, "192.0.2.1")
    connections.admit(Fake(last_active=1000.0), "192.0.2.2")
    assert connections.admit(Fake(), "")
    assert other.fate == ["aborted"]
    assert not any(connection.fate for connection in proxied)


def test_only_some_connections_get_a_refusal_at_the_limit() -> None:
    """
    A connection that gets a 503 holds a file descriptor.
    """
    connections = table(1, Fake(phase=BUSY))
    refused_connections = [Fake(phase=Phase.CLOSING) for _ in range(MAX_REFUSALS)]
    assert not any(connections.admit(connection) for connection in refused_connections)
    assert all(connections.add_refused(connection) for connection in refused_connections)
    assert not connections.add_refused(Fake())
    connections.remove(refused_connections[0])
    assert connections.add_refused(Fake())
    connections.abort()
    assert refused_connections[1].fate == ["aborted"]


def test_emptied_fires_when_the_last_connection_leaves() -> None:
    fakes = [Fake(), Fake()]
    connections = table(2, *fakes)
    fired: list[None] = []
    connections.when_empty().addCallback(fired.append)
    connections.remove(fakes[0])
    assert fired == []
    connections.remove(fakes[1])
    connections.when_empty().addCallback(fired.append)
    assert fired == [None, None]


def _pair(kind: str) -> tuple[socket.socket, socket.socket]:
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return listening.accept()[0], client


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_number_of_sent_bytes_changes_only_when_the_client_reads(kind: str) -> None:
    server, client = _pair(kind)
    with server, client:
        server.settimeout(0)
        stuck = -1
        while count_delivered(server) != stuck:
            # Bytes that are under way in the kernel settle first.
            stuck = count_delivered(server) or 0
            with suppress(BlockingIOError):
                while True:
                    server.send(bytes(65536))
        ends = time.monotonic() + TIMEOUT_SECONDS
        while count_delivered(server) == stuck:
            assert time.monotonic() < ends
            client.recv(65536)
    assert count_delivered(server) is None
    assert count_delivered(None) is None
