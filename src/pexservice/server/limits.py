"""
How many connections there are, and which of them go: when there are too many, when
they take too long, when the worker stops.

No connection has a timer of its own.  One sweep a second looks at all of them, which
at 10,000 takes a millisecond, and a request costs nothing but writing down when it
was.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

from pexservice.server.interfaces import IConnection, Phase
from pexservice.web.problems import Problem, too_many_connections

#: How long a connection may rest between two requests.  Seconds.
IDLE_TIMEOUT = 60

#: How long a request may take to arrive, head and body.  Seconds.
REQUEST_TIMEOUT = 20

#: How long a client may take no byte of what it is sent.  Seconds.
STALL_TIMEOUT = 60

#: A search for a resting connection that found none is repeated when this many times
#: as long as it took went by: a flood of connections must not become one of searches.
REST_BETWEEN_SEARCHES = 10

#: Why connections are closed: for each of the above, and to make room for others.
REASONS = ("idle", "slow", "stalled", "displaced")


#: A connection that is closing makes room at once, or clients that leave together would
#: keep others out until the last of them is gone.
_MAY_GO = (Phase.IDLE, Phase.DRAINING)


class Connections:
    """
    The open connections of one worker.

    @ivar limit: how many there may be.
    @ivar accepted: how many were taken.
    @ivar refused: how many were not.
    @ivar closed: how many were closed from here, by the reason.
    @ivar closing: no connection outlives the request it is in.
    @ivar parting: nor one that comes to rest.
    @ivar seconds: a monotonic clock.
    """

    def __init__(self, limit: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._open: set[IConnection] = set()
        # Told to close to make room for others, and not closed yet.
        self._displaced: set[IConnection] = set()
        self._emptied: list[Deferred[None]] = []
        self.accepted = self.refused = 0
        self.closed = dict.fromkeys(REASONS, 0)
        self.closing = False
        self.parting = False
        self.seconds = seconds
        # Those that rested when last was looked, the longest last, and since when.
        self._resting: list[tuple[float, IConnection]] = []
        self._next_search = 0.0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """
        Are there as many as there may be?
        """
        return len(self._open) >= self.limit

    def admit(self, connection: IConnection) -> Problem | None:
        """
        Take a new connection.  When there are too many, the one that rested longest
        makes room.

        @return: why it is not taken.
        """
        if self.full:
            resting = self._rested_longest()
            if resting is None:
                self.refused += 1
                return too_many_connections(self.limit)
            self._open.discard(resting)
            self._displaced.add(resting)
            self.closed["displaced"] += 1
            resting.loseConnection()
        self._open.add(connection)
        self.accepted += 1
        return None

    def _rested_longest(self) -> IConnection | None:
        found = self._still_resting()
        if found is None:
            begun = self.seconds()
            if begun < self._next_search:
                return None
            self._resting = [
                (each.last_active, each) for each in self._open if each.phase in _MAY_GO
            ]
            self._resting.sort(key=lambda resting: resting[0], reverse=True)
            took = self.seconds() - begun
            self._next_search = begun + (1 + REST_BETWEEN_SEARCHES) * took
            found = self._still_resting()
        return found

    def _still_resting(self) -> IConnection | None:
        """
        The next of those found resting that has not moved since.
        """
        while self._resting:
            last_active, each = self._resting.pop()
            still = each.phase in _MAY_GO and each.last_active == last_active
            if still and each in self._open:
                return each
        return None

    def leave(self, connection: IConnection) -> None:
        """
        C{connection} is closed.
        """
        self._open.discard(connection)
        self._displaced.discard(connection)
        if not self._open and self._emptied:
            emptied, self._emptied = self._emptied, []
            for each in emptied:
                each.callback(None)

    def sweep(self) -> None:
        """
        See which of them have taken too long; to be called once a second.
        """
        now = self.seconds()
        for each in [*self._open, *self._displaced]:
            if each.blocked_since and now - each.blocked_since > STALL_TIMEOUT:
                self.closed["stalled"] += 1
                each.abort()
            elif each.receiving_since and now - each.receiving_since > REQUEST_TIMEOUT:
                self.closed["slow"] += 1
                each.time_out()
            elif each.phase is Phase.IDLE and now - each.last_active > IDLE_TIMEOUT:
                self.closed["idle"] += 1
                each.loseConnection()

    def abort(self) -> None:
        """
        Close all of them now, whatever they are in.
        """
        for each in [*self._open, *self._displaced]:
            each.abort()

    def close_resting(self) -> None:
        """
        Close those that wait for another request, now or when they come to it.  One
        that has sent none yet is about to, so it may.
        """
        self.parting = True
        for each in list(self._open):
            if each.phase is Phase.IDLE and each.answered:
                each.loseConnection()

    def close_idle(self) -> None:
        """
        Close also those that have not sent any request.
        """
        for each in list(self._open):
            if each.phase is Phase.IDLE:
                each.loseConnection()

    def emptied(self) -> Deferred[None]:
        """
        @return: fires when no connection is open.
        """
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied
