"""
The limits on connections: which connections are closed, and when.

Connections are closed when there are too many, when they take too long, and when the
worker stops.

Every connection counts from the moment it is accepted, because it has a file descriptor.
When a connection arrives after the limit is reached, one of the open connections is closed.
If some clients have more than their share, one of their connections is closed.  So a client
that opens too many connections loses some of them, and other clients lose none.

Connections have no timers.  A request only stores the time.  Once a second, all connections
are checked, which takes a millisecond for 10,000 of them.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

#: How long a connection may be idle between two requests.
KEEP_ALIVE_TIMEOUT_SECONDS = 60

#: How long a request may take to arrive, head and body.
REQUEST_TIMEOUT_SECONDS = 20

#: A client that takes no bytes of its response for so long is disconnected.  The bytes are
#: counted only once in this time, so the disconnection may come after twice as long.
STALL_TIMEOUT_SECONDS = 60

#: A search for connections to close looks at all connections.  If a search finds less than
#: this fraction of all connections, the next search waits for C{SEARCH_BACKOFF} times the
#: duration of this search.  Otherwise each connection of a flood would cost a search.
MIN_FOUND_FRACTION = 0.01
SEARCH_BACKOFF = 10

#: The share of a client has at least so many connections: a browser opens six to a server,
#: and several people may use one address.
MIN_SHARE = 16

#: How many connections beyond the limit may get a 503 at the same time; any more are closed
#: without a response.
MAX_REFUSALS = 32

#: Why the service closes connections: because of one of the three timeouts above, to let
#: another connection in, or because the client sends only bytes that are no request.
CLOSE_REASONS = ("idle", "slow", "stalled", "displaced", "flooding")

#: C{tcpi_bytes_acked} in C{struct tcp_info} of C{linux/tcp.h}.
_BYTES_ACKED = struct.Struct("=120xQ")

#: The C{int} that C{SIOCOUTQ} returns; see unix(7) and tcp(7).
_QUEUED = struct.Struct("=i")


class Phase(Enum):
    """
    The phase of a connection.
    """

    #: Between requests: the connection may be closed to let another one in.
    IDLE = auto()
    #: A request, or the TLS handshake, has begun to arrive and is not complete.
    RECEIVING = auto()
    #: A request is being performed; pipelined requests may wait behind it.
    PERFORMING = auto()
    #: The last response was sent, and no more requests are read.
    CLOSING = auto()
    CLOSED = auto()


class LimitedConnection(Protocol):
    """
    The part of a connection that the limits read and call.

    All times are seconds on the monotonic clock.

    @ivar has_responded: whether the connection has sent a response.
    @ivar last_active: when the connection last became idle.
    @ivar receiving_since: when the first bytes of an incomplete request arrived; 0 if no
        request is arriving.
    @ivar blocked_since: when the client stopped taking responses; 0 while it takes them.
    """

    phase: Phase
    has_responded: bool
    last_active: float
    receiving_since: float
    blocked_since: float

    def delivery_progress(self) -> int | None:
        """
        Return the L{delivery_progress} of the connection's socket.
        """

    def time_out(self) -> None:
        """
        Refuse a request that took too long to arrive.
        """

    def close(self) -> None:
        """
        Close the connection after everything was sent.
        """

    def abort(self) -> None:
        """
        Close the connection at once, whatever was not sent.
        """


class Admission(Enum):
    """
    The decision about a new connection.
    """

    ACCEPTED = auto()
    #: The limit is reached, and a response says so.
    REFUSED = auto()
    #: The limit is reached, and L{MAX_REFUSALS} connections are getting such a response.
    DROPPED = auto()


#: The order in which connections are closed to let others in: by a number, then by a time.
_Rank = tuple[int, float]

_PERFORMING: _Rank = (3, 0.0)


class Connections:
    """
    The open connections of one worker.

    @ivar limit: how many connections there may be.
    @ivar accepted: how many connections were accepted.
    @ivar refused: how many connections were refused.
    @ivar closed: how many connections the service closed, by reason.
    @ivar is_draining: whether every response is the last of its connection.
    @ivar closes_idle: whether a connection is closed as soon as it is idle.
    @ivar seconds: a monotonic clock.
    """

    _log = Logger()

    def __init__(self, limit: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        # The open connections, each with its client, and how many each client has.
        self._open: dict[LimitedConnection, str | None] = {}
        self._counts: Counter[str] = Counter()
        self._refused: set[LimitedConnection] = set()
        # For each blocked connection: when its progress was read last, and the progress.
        self._blocked: dict[LimitedConnection, tuple[float, int | None]] = {}
        self._empty_deferreds: list[Deferred[None]] = []
        self.accepted = self.refused = 0
        self.closed = dict.fromkeys(CLOSE_REASONS, 0)
        self.is_draining = False
        self.closes_idle = False
        self.seconds = seconds
        # The connections that the last search found; the last one is closed first.
        self._candidates: list[tuple[_Rank, LimitedConnection]] = []
        # Whether all candidates belong to clients with more than their share.
        self._candidates_are_greedy = False
        self._next_search = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: LimitedConnection, client: str | None = None) -> Admission:
        """
        Accept a new connection, maybe by closing another one, or refuse it.

        @param client: the client that opened the connection, as
            L{Clients.client_of<pexservice.web.clients.Clients.client_of>} returns it.
            C{None} stands for a proxy.  A proxy has the connections of many clients, so it
            has no share.
        """
        if len(self._open) >= self.limit and not self.displace(client):
            self.refused += 1
            if len(self._refused) >= MAX_REFUSALS:
                return Admission.DROPPED
            self._refused.add(connection)
            return Admission.REFUSED
        self._open[connection] = client
        if client is not None:
            self._counts[client] += 1
        self.accepted += 1
        return Admission.ACCEPTED

    def displace(self, newcomer: str | None = None) -> bool:
        """
        Close one connection at once, so that its file descriptor is free in the next turn.

        If some clients have more than their share, one of their connections is closed;
        otherwise a connection of any client.  The connection that has been idle longest is
        closed first.  If no connection is idle, the connection whose request has been
        arriving longest is closed.

        A client with more than its share can also lose busy connections: first those on
        which the client takes no response, then the newest of those whose requests are
        being performed.  Otherwise this client could keep all other clients out.  But a new
        connection of this client never closes one whose request is being performed.

        @param newcomer: the client of the connection that exceeds the limit.
        @return: whether a connection was closed.
        """
        connection = self._next_candidate(newcomer)
        if connection is None:
            begin = self.seconds()
            if begin < self._next_search:
                return False
            self._search(newcomer)
            found_few = len(self._candidates) < MIN_FOUND_FRACTION * len(self._open)
            duration = self.seconds() - begin
            connection = self._next_candidate(newcomer)
            if found_few or connection is None:
                self._next_search = begin + (1 + SEARCH_BACKOFF) * duration
        if connection is None:
            return False
        self.remove(connection)
        self.closed["displaced"] += 1
        connection.abort()
        return True

    def _search(self, newcomer: str | None) -> None:
        share = self._share()
        greedy = {client for client, count in self._counts.items() if count > share}
        if newcomer is not None and self._has_share(newcomer):
            # Otherwise its new connections would close those of other clients.
            greedy.add(newcomer)
        self._candidates_are_greedy = bool(greedy)
        self._candidates = [
            (rank, connection)
            for connection, client in self._open.items()
            if not greedy or client in greedy
            if (rank := _rank(connection, greedy=self._candidates_are_greedy)) is not None
        ]
        self._candidates.sort(key=lambda candidate: candidate[0], reverse=True)

    def _share(self) -> int:
        """
        Return how many connections a client may have when the limit is reached.
        """
        return max(MIN_SHARE, self.limit // (len(self._counts) + 1))

    def _has_share(self, client: str | None) -> bool:
        return client is not None and self._counts[client] >= self._share()

    def _next_candidate(self, newcomer: str | None) -> LimitedConnection | None:
        """
        Return the connection to close next, of those that the last search found.

        Connections that have changed since the search are skipped.
        """
        while self._candidates:
            if self._candidates[-1][0] == _PERFORMING and self._has_share(newcomer):
                break
            rank, connection = self._candidates.pop()
            if connection not in self._open or rank != _rank(connection, greedy=True):
                continue
            count = self._counts[self._open[connection] or ""]
            if self._candidates_are_greedy and count < self._share():
                # The client has lost enough connections.
                self._candidates.clear()
                break
            return connection
        return None

    def remove(self, connection: LimitedConnection) -> None:
        """
        Forget a connection that is closed.
        """
        self._refused.discard(connection)
        self._blocked.pop(connection, None)
        client = self._open.pop(connection, None)
        if client is not None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]
        if not self._open and self._empty_deferreds:
            emptied, self._empty_deferreds = self._empty_deferreds, []
            for waiter in emptied:
                waiter.callback(None)

    def sweep(self) -> None:
        """
        Close the connections whose timeout is over; the server calls this once a second.
        """
        now = self.seconds()
        for connection in [*self._open, *self._refused]:
            try:
                self._check_timeouts(connection, now)
            except Exception:  # noqa: BLE001 it is logged, and no reason to stop
                # An error in one connection must not keep the others open.
                self._log.failure("a connection could not be closed")
                self.remove(connection)
                connection.abort()

    def _check_timeouts(self, connection: LimitedConnection, now: float) -> None:
        is_idle = connection.phase is Phase.IDLE
        receiving_since = connection.receiving_since
        if connection.blocked_since and self._is_stalled(connection, now):
            self.closed["stalled"] += 1
            connection.abort()
        elif receiving_since and now - receiving_since > REQUEST_TIMEOUT_SECONDS:
            self.closed["slow"] += 1
            connection.time_out()
        elif is_idle and now - connection.last_active > KEEP_ALIVE_TIMEOUT_SECONDS:
            self.closed["idle"] += 1
            connection.close()

    def _is_stalled(self, connection: LimitedConnection, now: float) -> bool:
        """
        Return whether the client of a blocked connection has taken no bytes for too long.
        """
        since, taken = self._blocked.get(connection, (0.0, None))
        if since < connection.blocked_since:
            self._blocked[connection] = (
                connection.blocked_since,
                connection.delivery_progress(),
            )
            return False
        if now - since <= STALL_TIMEOUT_SECONDS:
            return False
        taken_by_now = connection.delivery_progress()
        self._blocked[connection] = now, taken_by_now
        return taken_by_now == taken

    def abort(self) -> None:
        """
        Close all connections now, whatever phase they are in.
        """
        for connection in [*self._open, *self._refused]:
            connection.abort()

    def close_idle(self) -> None:
        """
        Close the idle connections now, and the others as soon as they are idle.

        A connection without a response so far stays open, because its first request is
        probably about to arrive.
        """
        self.closes_idle = True
        for connection in list(self._open):
            if connection.phase is Phase.IDLE and connection.has_responded:
                connection.close()

    def close_waiting(self) -> None:
        """
        Close the connections on which the worker waits for the client.

        Otherwise one slow client would delay the next worker, and so all other clients.
        """
        for connection in list(self._open):
            if connection.phase is Phase.IDLE:
                connection.close()
            elif connection.receiving_since or connection.blocked_since:
                connection.abort()

    def when_empty(self) -> Deferred[None]:
        """
        Return a Deferred that fires when no connection is open.
        """
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._empty_deferreds.append(emptied)
        return emptied


def _rank(connection: LimitedConnection, *, greedy: bool) -> _Rank | None:
    """
    Return the rank of a connection among those to close, or C{None} if it must stay open.

    @param greedy: whether its client has more than its share.
    """
    phase = connection.phase
    if phase is Phase.CLOSING:
        # The last response was sent, so the connection only waits for the client to close.
        return 0, connection.last_active
    if phase is Phase.IDLE:
        # A connection without a response ranks with those whose requests are arriving.
        return 0 if connection.has_responded else 1, connection.last_active
    if connection.receiving_since:
        return 1, connection.receiving_since
    if greedy and connection.blocked_since:
        return 2, connection.blocked_since
    # Of equal ranks, the connection that was accepted last is closed first.
    return _PERFORMING if greedy else None


def delivery_progress(handle: socket.socket | None) -> int | None:
    """
    Return a number that changes when the client takes some of the bytes sent to it.

    A transport only reports that its buffer is full, and later that it has space again.
    Some megabytes are sent between these two reports, and a client with a slow line needs
    minutes for them although it is not stuck.  So the kernel's own count is used.

    @param handle: the connection's socket; C{None} if the transport has none.
    @return: for TCP, the number of bytes that the peer's kernel has acknowledged; for a
        Unix socket, minus the number of bytes that wait to be read; C{None} if neither is
        known.
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
