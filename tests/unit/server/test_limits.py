"""
Which connections go: for room, for time, for the end.
"""

from __future__ import annotations

from attrs import define, field
from zope.interface import implementer

from pexservice.server.interfaces import IConnection, Phase
from pexservice.server.limits import (
    IDLE_TIMEOUT,
    REQUEST_TIMEOUT,
    STALL_TIMEOUT,
    Connections,
)
from tests.support.fakes import Turns

BUSY = Phase.ANSWERING


@implementer(IConnection)
@define(eq=False)
class Fake:
    """
    A connection that writes down what happens to it.
    """

    last_active: float = 0.0
    phase: Phase = Phase.IDLE
    answered: bool = True
    receiving_since: float = 0.0
    blocked_since: float = 0.0
    fate: list[str] = field(factory=list)

    def loseConnection(self) -> None:
        """
        See L{IConnection.loseConnection}.
        """
        self.phase = Phase.DRAINING
        self.fate.append("closed")

    def time_out(self) -> None:
        """
        See L{IConnection.time_out}.
        """
        self.fate.append("timed out")

    def abort(self) -> None:
        """
        See L{IConnection.abort}.
        """
        self.fate.append("aborted")


def table(limit: int, *connections: Fake, clock: Turns | None = None) -> Connections:
    """
    With C{connections} in it.
    """
    made = Connections(limit, (clock or Turns()).seconds)
    for each in connections:
        assert made.admit(each) is None
    return made


def test_the_longest_resting_makes_room() -> None:
    """
    In the order in which they came to rest, whatever the order in which they came.
    """
    fakes = [Fake(last_active=at) for at in (3.0, 1.0, 2.0)]
    connections = table(3, *fakes)
    for goes in (1, 2, 0):
        assert connections.admit(Fake(last_active=9.0, phase=BUSY)) is None
        assert fakes[goes].fate == ["closed"]
    refusal = connections.admit(Fake())
    assert refusal is not None
    assert refusal.status == 503


def test_one_that_is_closing_makes_room() -> None:
    """
    It does not count any more when there is need, and once only.
    """
    closing = Fake(phase=Phase.DRAINING)
    connections = table(1, closing)
    assert connections.admit(Fake(phase=BUSY)) is None
    assert connections.admit(Fake()) is not None
    assert connections.closed["displaced"] == 1


def test_who_has_moved_since_the_search_stays() -> None:
    """
    A search finds many, which are used up one by one; who was busy in between has
    not rested longest any more.
    """
    first, second, third = (Fake(last_active=float(n)) for n in range(3))
    connections = table(3, first, second, third)
    connections.admit(Fake(phase=BUSY))
    second.last_active = 5.0
    connections.admit(Fake(phase=BUSY))
    assert (first.fate, second.fate, third.fate) == (["closed"], [], ["closed"])


def test_one_search_in_a_flood() -> None:
    """
    When all are busy, a new connection does not cost a search each.
    """
    looked = 0

    class Busy(Fake):
        """
        Counts who looks.
        """

        @property
        def phase(self) -> Phase:
            nonlocal looked
            looked += 1
            clock.rightNow += 0.001
            return BUSY

        @phase.setter
        def phase(self, value: Phase) -> None:
            pass

    clock = Turns()
    clock.rightNow = 1.0
    connections = table(3, Busy(), Busy(), Busy(), clock=clock)
    for _ in range(100):
        assert connections.admit(Fake()) is not None
    assert looked == 3
    clock.rightNow += 0.1
    assert connections.admit(Fake()) is not None
    assert looked == 6


def test_the_sweep() -> None:
    """
    Who rests too long is closed, who takes too long to ask is told, who does not take
    what it is sent is cut off; the others stay.
    """
    clock = Turns()
    now = clock.rightNow = 1000.0
    fates = {
        "": Fake(last_active=now - IDLE_TIMEOUT),
        "closed": Fake(last_active=now - IDLE_TIMEOUT - 1),
        "timed out": Fake(phase=BUSY, receiving_since=now - REQUEST_TIMEOUT - 1),
        "aborted": Fake(phase=BUSY, blocked_since=now - STALL_TIMEOUT - 1),
    }
    busy = Fake(phase=BUSY, last_active=0.0, receiving_since=now - REQUEST_TIMEOUT)
    connections = table(10, *fates.values(), busy, clock=clock)
    connections.sweep()
    for fate, fake in fates.items():
        assert fake.fate == ([fate] if fate else [])
    assert busy.fate == []


def test_who_made_room_and_does_not_go() -> None:
    """
    It does not count any more, but is cut off in the end.
    """
    clock = Turns()
    clock.rightNow = 1.0
    slow = Fake()
    connections = table(1, slow, clock=clock)
    connections.admit(Fake(phase=BUSY))
    assert len(connections) == 1
    slow.phase, slow.blocked_since = Phase.DRAINING, 1.0
    clock.rightNow += STALL_TIMEOUT + 1
    connections.sweep()
    assert slow.fate == ["closed", "aborted"]
    connections.leave(slow)
    connections.abort()
    assert slow.fate == ["closed", "aborted"]


def test_emptied() -> None:
    """
    Fires when the last one has left.
    """
    fakes = [Fake(), Fake()]
    connections = table(2, *fakes)
    fired: list[None] = []
    connections.emptied().addCallback(fired.append)
    connections.leave(fakes[0])
    assert fired == []
    connections.leave(fakes[1])
    connections.emptied().addCallback(fired.append)
    assert fired == [None, None]


def test_what_goes_is_counted_once() -> None:
    """
    By its reason, also when a connection takes its time to close.
    """
    clock = Turns()
    clock.rightNow = 1000.0
    idle, slow, stalled = Fake(last_active=1000.0), Fake(phase=BUSY), Fake(phase=BUSY)
    slow.receiving_since = stalled.blocked_since = 1000.0
    connections = table(3, idle, slow, stalled, clock=clock)
    assert connections.accepted == 3
    clock.rightNow += REQUEST_TIMEOUT + 1
    connections.sweep()
    slow.receiving_since = 0.0
    clock.rightNow += max(IDLE_TIMEOUT, STALL_TIMEOUT)
    connections.sweep()
    connections.leave(stalled)
    connections.sweep()
    assert connections.closed == {"idle": 1, "slow": 1, "stalled": 1, "displaced": 0}


def test_who_is_displaced_or_refused_is_counted() -> None:
    """
    The one made room, the other found none.
    """
    connections = table(1, Fake())
    assert connections.admit(Fake(phase=BUSY)) is None
    assert connections.admit(Fake()) is not None
    assert (connections.accepted, connections.refused) == (2, 1)
    assert connections.closed["displaced"] == 1
