"""
The limits on connections: which connections are closed, and when.

Connections are closed when there are too many, when they take too long, and when the
worker stops.

Every connection counts that holds a file descriptor, from the moment it is accepted.  When
there is no room for another, some client holds more than its share, and one of that
client's connections is closed: so a single client can close its own connections and nobody
else's.

No connection has a timer of its own.  One sweep a second looks at all of them, which at
10,000 takes a millisecond, and a request costs nothing but writing down when it was.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

#: How long a connection may be idle between two requests.
IDLE_TIMEOUT_SECONDS = 60

#: How long a request may take to arrive, head and body.
REQUEST_TIMEOUT_SECONDS = 20

#: How long a client may take no byte of what it is sent, and how often that is checked.
STALL_TIMEOUT_SECONDS = 60

#: A search that found few connections to close, less than one in L{FEW}, is repeated only
#: after L{SEARCH_BACKOFF} times as long as it took: a flood of connections must not become
#: one of searches.  A search that found more has paid for itself when they are used up.
FEW = 100
SEARCH_BACKOFF = 10

#: A client with no more connections than this never holds too many: browsers open six to a
#: server, and one address may stand for a few people.
MIN_SHARE = 16

#: How many connections at a time are told that there is no room for them; any more are
#: closed without a response.
MAX_REFUSALS = 32

#: Why connections are closed: for one of the timeouts above, to make room for others, or
#: because they only send what is no request.
REASONS = ("idle", "slow", "stalled", "displaced", "flooding")


class Phase(Enum):
    """
    The phase of a connection.
    """

    #: Between requests, and so free to be closed to make room for others.
    IDLE = auto()
    #: A request, or the TLS handshake, has begun to arrive and is not complete.
    RECEIVING = auto()
    #: A request is being performed; others may wait behind it.
    ANSWERING = auto()
    #: The last response was sent; nothing that arrives is read as a request any more.
    DRAINING = auto()
    #: There is no connection any more.
    CLOSED = auto()


class LimitedConnection(Protocol):
    """
    A connection as the limits see it.  All times are seconds on the monotonic clock.

    @ivar answered: whether a response was sent on it.
    @ivar last_active: when it was last between requests.
    @ivar receiving_since: when the request that is arriving began, 0 for none.
    @ivar blocked_since: when the client stopped taking responses, 0 while it takes them.
    """

    phase: Phase
    answered: bool
    last_active: float
    receiving_since: float
    blocked_since: float

    def bytes_taken(self) -> int | None:
        """
        Return a number that changes when the client takes some of the bytes sent to it.

        Return C{None} if there is no such number.
        """

    def time_out(self) -> None:
        """
        Refuse a request that took too long to arrive.
        """

    def close(self) -> None:
        """
        Close the connection when everything written was sent.
        """

    def abort(self) -> None:
        """
        Close the connection at once, whatever was not sent.
        """


class Admission(Enum):
    """
    The decision about a new connection.
    """

    #: There is room for it.
    TAKEN = auto()
    #: There is no room for it, and there is time to say so.
    REFUSED = auto()
    #: There is no room for it, and too many others are being told.
    DROPPED = auto()


class Connections:
    """
    The open connections of one worker.

    @ivar limit: how many there may be.
    @ivar accepted: how many were taken.
    @ivar refused: how many were not.
    @ivar closed: how many were closed from here, by the reason.
    @ivar closing: whether every connection ends with the request it is in.
    @ivar parting: whether a connection is closed as soon as it comes to rest.
    @ivar seconds: a monotonic clock.
    """

    _log = Logger()

    def __init__(self, limit: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        # The holder of each connection: the client whose share it counts against.
        self._open: dict[LimitedConnection, str | None] = {}
        self._held: Counter[str] = Counter()
        self._refused: set[LimitedConnection] = set()
        # The blocked connections: since when, and how much their clients had taken then.
        self._blocked: dict[LimitedConnection, tuple[float, int | None]] = {}
        self._emptied: list[Deferred[None]] = []
        self.accepted = self.refused = 0
        self.closed = dict.fromkeys(REASONS, 0)
        self.closing = False
        self.parting = False
        self.seconds = seconds
        # The connections that the last search found; the last in the list goes first.
        self._found: list[tuple[_Rank, LimitedConnection]] = []
        self._of_greedy = False
        self._next_search = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: LimitedConnection, holder: str | None = None) -> Admission:
        """
        Admit a new connection, closing another one for it if need be, or refuse it.

        @param holder: the client that opened it, by its address or network; C{None} for a
            proxy, which stands for many clients and so never holds too many.
        """
        if len(self._open) >= self.limit and not self.displace(holder):
            self.refused += 1
            if len(self._refused) >= MAX_REFUSALS:
                return Admission.DROPPED
            self._refused.add(connection)
            return Admission.REFUSED
        self._open[connection] = holder
        if holder is not None:
            self._held[holder] += 1
        self.accepted += 1
        return Admission.TAKEN

    def displace(self, newcomer: str | None = None) -> bool:
        """
        Close one connection at once, so that its file descriptor is free in the next turn.

        The connections of clients that hold more than their share go first.  Of these, or
        of all if there is no such client, the connection that has rested longest goes
        first, then the one whose request has been arriving longest.  A client with too many
        connections also loses those on which it takes no answers.

        @param newcomer: the client for whose connection there is no room.
        @return: whether a connection could be closed.
        """
        chosen = self._next_found()
        if chosen is None:
            begun = self.seconds()
            if begun < self._next_search:
                return False
            self._search(newcomer)
            if len(self._found) * FEW < len(self._open):
                took = self.seconds() - begun
                self._next_search = begun + (1 + SEARCH_BACKOFF) * took
            chosen = self._next_found()
        if chosen is None:
            return False
        self.leave(chosen)
        self.closed["displaced"] += 1
        chosen.abort()
        return True

    def _search(self, newcomer: str | None) -> None:
        share = self._share()
        greedy = {holder for holder, count in self._held.items() if count > share}
        if newcomer is not None and self._held[newcomer] >= share:
            # Otherwise each new connection of this client would cost another an old one.
            greedy.add(newcomer)
        self._of_greedy = bool(greedy)
        self._found = [
            (rank, each)
            for each, holder in self._open.items()
            if not greedy or holder in greedy
            if (rank := _rank(each, greedy=self._of_greedy)) is not None
        ]
        self._found.sort(key=lambda found: found[0], reverse=True)

    def _share(self) -> int:
        """
        Reckon how many connections one client may hold while there are too many.
        """
        return max(MIN_SHARE, self.limit // (len(self._held) + 1))

    def _next_found(self) -> LimitedConnection | None:
        """
        Return the search's next connection that has not changed since, if there is one.
        """
        while self._found:
            rank, each = self._found.pop()
            if each not in self._open or rank != _rank(each, greedy=True):
                continue
            held = self._held[self._open[each] or ""]
            if self._of_greedy and held < self._share():
                # The client has given up enough connections.
                self._found.clear()
                break
            return each
        return None

    def leave(self, connection: LimitedConnection) -> None:
        """
        Forget a connection that is closed.
        """
        self._refused.discard(connection)
        self._blocked.pop(connection, None)
        holder = self._open.pop(connection, None)
        if holder is not None:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]
        if not self._open and self._emptied:
            emptied, self._emptied = self._emptied, []
            for each in emptied:
                each.callback(None)

    def _all(self) -> Iterator[LimitedConnection]:
        return iter([*self._open, *self._refused])

    def sweep(self) -> None:
        """
        Close the connections that have taken too long; to be called once a second.
        """
        now = self.seconds()
        for each in self._all():
            try:
                self._sweep_one(each, now)
            except Exception:  # noqa: BLE001 it is logged, and no reason to stop
                # An error in one connection must not keep the others open.
                self._log.failure("a connection could not be closed")
                self.leave(each)
                each.abort()

    def _sweep_one(self, connection: LimitedConnection, now: float) -> None:
        idle = connection.phase is Phase.IDLE
        receiving_since = connection.receiving_since
        if connection.blocked_since and self._is_stalled(connection, now):
            self.closed["stalled"] += 1
            connection.abort()
        elif receiving_since and now - receiving_since > REQUEST_TIMEOUT_SECONDS:
            self.closed["slow"] += 1
            connection.time_out()
        elif idle and now - connection.last_active > IDLE_TIMEOUT_SECONDS:
            self.closed["idle"] += 1
            connection.close()

    def _is_stalled(self, each: LimitedConnection, now: float) -> bool:
        """
        Return whether the client of a blocked connection has taken nothing for too long.
        """
        since, taken = self._blocked.get(each, (0.0, None))
        if since < each.blocked_since:
            self._blocked[each] = each.blocked_since, each.bytes_taken()
            return False
        if now - since <= STALL_TIMEOUT_SECONDS:
            return False
        taken_by_now = each.bytes_taken()
        self._blocked[each] = now, taken_by_now
        return taken_by_now == taken

    def abort(self) -> None:
        """
        Close all connections now, whatever phase they are in.
        """
        for each in self._all():
            each.abort()

    def close_resting(self) -> None:
        """
        Close the connections that wait for another request, now or when they come to it.

        A connection that has sent no request yet is about to, so it may.
        """
        self.parting = True
        for each in list(self._open):
            if each.phase is Phase.IDLE and each.answered:
                each.close()

    def close_idle(self) -> None:
        """
        Close all idle connections, also those that have not sent any request.
        """
        for each in list(self._open):
            if each.phase is Phase.IDLE:
                each.close()

    def emptied(self) -> Deferred[None]:
        """
        Return a Deferred that fires when no connection is open.
        """
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied


#: The order in which connections are closed: by the kind of their rest, then since when.
_Rank = tuple[int, float]


def _rank(connection: LimitedConnection, *, greedy: bool) -> _Rank | None:
    """
    Rank a connection among those that can make room; C{None} if it cannot.

    @param greedy: whether its client holds too many.
    """
    phase = connection.phase
    if phase is Phase.DRAINING:
        # Otherwise clients that leave together would keep others out until all are gone.
        return 0, connection.last_active
    if phase is Phase.IDLE:
        # The first request counts as arriving since the connection was made.
        return 0 if connection.answered else 1, connection.last_active
    if connection.receiving_since:
        return 1, connection.receiving_since
    if greedy and connection.blocked_since:
        return 2, connection.blocked_since
    return None


#: C{tcpi_bytes_acked} in C{struct tcp_info} of C{linux/tcp.h}.
_BYTES_ACKED = struct.Struct("=120xQ")

#: An C{int}, as C{SIOCOUTQ} gives it; see unix(7) and tcp(7).
_QUEUED = struct.Struct("=i")


def bytes_taken(handle: socket.socket | None) -> int | None:
    """
    Return a number that changes when the client takes some of what it is sent.

    A transport only reports that its buffer is full, and later that it has space again,
    with up to some megabytes in between.  A client with a slow line needs minutes for that
    and is not stuck.  The kernel knows about each byte.

    @param handle: the connection's socket, or C{None} where there is none to ask.
    @return: for TCP, the number of bytes that the peer has acknowledged; for another
        stream, minus the number of bytes that wait to be read; C{None} if neither is known.
    """
    if handle is None or handle.fileno() < 0:
        return None
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])
    except (OSError, struct.error):
        # The socket is not TCP, or is closed.
        pass
    try:
        queued = fcntl.ioctl(handle.fileno(), termios.TIOCOUTQ, bytes(_QUEUED.size))
    except OSError:
        return None
    return -int(_QUEUED.unpack(queued)[0])
