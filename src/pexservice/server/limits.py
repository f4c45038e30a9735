"""
The limits on connections: which connections are closed, and when.

Connections are closed when there are too many of them, when their clients are too slow, and
when the worker stops.

A connection counts as soon as it is accepted, because it has a file descriptor.  If a
connection arrives when the limit is reached, L{Connections.displace} closes one of the open
connections.  If some clients have more connections than their share, only these clients
lose connections.

A connection has no timer for its timeouts: it stores the times at which they began.  Once
a second, L{Connections.sweep} checks all connections.  For 10,000 connections, this check
takes a millisecond.
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

#: How long a TLS handshake may take.
HANDSHAKE_TIMEOUT_SECONDS = 10

#: How long a request may take to arrive, head and body.
REQUEST_TIMEOUT_SECONDS = 20

#: How long a client may take no bytes of its response.  The service looks at the number of
#: taken bytes once in this time, so it closes a connection after at most twice this time.
STALL_TIMEOUT_SECONDS = 60

#: A search for connections to close looks at all connections.  Without a pause, each new
#: connection of a flood would cost such a search.  So if a search finds less than
#: C{MIN_FOUND_FRACTION} of all connections, the next search begins after a pause.  The
#: pause is C{SEARCH_BACKOFF} times as long as the previous search.
MIN_FOUND_FRACTION = 0.01
SEARCH_BACKOFF = 10

#: The share of a client is at least this many connections.  A browser opens six connections
#: to a server, and several people may use one address.
MIN_SHARE = 16

#: How many connections over the limit may get a 503 at the same time.  Further connections
#: over the limit are closed without a response.
MAX_REFUSALS = 32

#: Why the service closes connections.  C{slow}: a handshake or a request did not arrive in
#: time.  C{displaced}: a new connection needed the place.  C{flooding}: the client sends
#: only TLS bytes without data.
CLOSE_REASONS = ("idle", "slow", "stalled", "displaced", "flooding")

#: C{tcpi_bytes_acked} in C{struct tcp_info} of C{linux/tcp.h}.
_BYTES_ACKED = struct.Struct("=120xQ")

#: The C{int} that C{SIOCOUTQ} returns; see unix(7) and tcp(7).
_QUEUED = struct.Struct("=i")


class Phase(Enum):
    #: The connection is over the limit, and gets a 503.
    REFUSED = auto()
    #: The TLS handshake is not complete.
    HANDSHAKE = auto()
    #: No request has begun to arrive since the last response.
    IDLE = auto()
    #: A request is arriving.
    RECEIVING = auto()
    #: The input in the buffer is parsed in a later iteration of the event loop.
    WAITING_TO_PARSE = auto()
    #: A request is being performed.
    PERFORMING = auto()
    #: The last response was sent, or the connection was aborted.
    CLOSING = auto()
    CLOSED = auto()


class LimitedConnection(Protocol):
    """
    The part of a connection that the limits read and call.

    All times are seconds on the monotonic clock.

    @ivar has_responded: whether the connection has sent a response.
    @ivar last_active: when the connection last became idle.
    @ivar receiving_since: when the TLS handshake began, or when the first bytes of an
        incomplete request arrived; C{None} if the connection waits for neither.
    @ivar stalled_since: when the stall timeout began, because the client stopped taking
        responses or because the connection closes; C{None} if it is not running.
    """

    phase: Phase
    has_responded: bool
    last_active: float
    receiving_since: float | None
    stalled_since: float | None

    def delivered_count(self) -> int | None:
        """
        Return what L{count_delivered} returns for the connection's socket.
        """

    def time_out(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


#: The number of a group in L{Connections.displace}, and a time.  The connection with the
#: lowest value is closed first.
_ClosingOrder = tuple[int, float]

_PERFORMING_GROUP: _ClosingOrder = (4, 0.0)


class Connections:
    """
    The open connections of one worker.

    @ivar limit: how many connections there may be.
    @ivar accepted: how many connections were accepted.
    @ivar refused: how many connections were refused.
    @ivar closed: how many connections the service has closed, for each reason.
    @ivar is_draining: whether every response is the last one of its connection.
    @ivar closes_idle: whether a connection is closed as soon as it is idle.
    @ivar seconds: a monotonic clock.
    """

    _log = Logger()

    def __init__(self, limit: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        # The open connections with their clients, and the number of connections of each
        # client.
        self._open: dict[LimitedConnection, str] = {}
        self._counts: Counter[str] = Counter()
        self._refused: set[LimitedConnection] = set()
        # For each running stall timeout, the time of the last check, and the count then.
        self._stalled: dict[LimitedConnection, tuple[float, int | None]] = {}
        self._empty_deferreds: list[Deferred[None]] = []
        self.accepted = self.refused = 0
        self.closed = dict.fromkeys(CLOSE_REASONS, 0)
        self.is_draining = False
        self.closes_idle = False
        self.seconds = seconds
        # The connections that the last search found.  The last one is closed first.
        self._candidates: list[tuple[_ClosingOrder, LimitedConnection]] = []
        # Whether all candidates belong to greedy clients; see displace.
        self._candidates_are_greedy = False
        self._next_search = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: LimitedConnection, client: str = "") -> bool:
        """
        Admit a new connection, if there is a place or another connection can be closed.

        @param client: the client that opened the connection, as
            L{Clients.client_of<pexservice.web.clients.Clients.client_of>} returns it;
            C{""} for a proxy.  A proxy has the connections of many clients, so it may have
            any number of connections.
        @return: whether the connection is admitted.
        """
        if len(self._open) >= self.limit and not self.displace(client):
            self.refused += 1
            return False
        self._open[connection] = client
        if client:
            self._counts[client] += 1
        self.accepted += 1
        return True

    def add_refused(self, connection: LimitedConnection) -> bool:
        """
        Add a connection over the limit, whose timeouts are checked while it gets a 503.

        @return: whether the connection may get a 503; see L{MAX_REFUSALS}.
        """
        if len(self._refused) >= MAX_REFUSALS:
            return False
        self._refused.add(connection)
        return True

    def displace(self, newcomer: str = "") -> bool:
        """
        Close one connection at once.

        The file descriptor of this connection is free in the next iteration.

        A client is greedy if it has more connections than its share.  If there are greedy
        clients, only their connections are closed.  The order is:

          1. idle or closing connections, the longest idle one first;
          2. connections with an incomplete request or handshake, and new connections
             without a request, the oldest first;
          3. only of greedy clients: connections on which the client takes no response, the
             longest stalled one first;
          4. only of greedy clients: connections whose request is being performed, the
             newest connection first.

        Without groups 3 and 4, a greedy client could keep all other clients out.  If
        C{newcomer} has its full share, it counts as greedy, and may be refused.  So group 4
        is then left out.

        @param newcomer: the client whose new connection exceeds the limit.
        @return: whether a connection was closed.
        """
        connection = self._next_candidate(newcomer)
        if connection is None and self.seconds() >= self._next_search:
            connection = self._search(newcomer)
        if connection is None:
            return False
        self.remove(connection)
        self.closed["displaced"] += 1
        connection.abort()
        return True

    def _search(self, newcomer: str) -> LimitedConnection | None:
        begin, share = self.seconds(), self._share()
        greedy_clients = {client for client, count in self._counts.items() if count > share}
        if self._uses_full_share(newcomer):
            # So its new connection closes no connections of clients within their share.
            greedy_clients.add(newcomer)
        self._candidates_are_greedy = is_greedy = bool(greedy_clients)
        self._candidates = [
            (order, connection)
            for connection, client in self._open.items()
            if not greedy_clients or client in greedy_clients
            if (order := _closing_order(connection, is_greedy=is_greedy)) is not None
        ]
        self._candidates.sort(key=lambda candidate: candidate[0], reverse=True)
        found_few = len(self._candidates) < MIN_FOUND_FRACTION * len(self._open)
        connection = self._next_candidate(newcomer)
        if found_few or connection is None:
            duration = self.seconds() - begin
            self._next_search = begin + (1 + SEARCH_BACKOFF) * duration
        return connection

    def _share(self) -> int:
        """
        Return how many connections a client may have when the limit is reached.
        """
        return max(MIN_SHARE, self.limit // (len(self._counts) + 1))

    def _uses_full_share(self, client: str) -> bool:
        return bool(client) and self._counts[client] >= self._share()

    def _next_candidate(self, newcomer: str) -> LimitedConnection | None:
        """
        Return the connection to close next, if the last search has found one.

        Connections that have changed since the search are skipped.
        """
        while self._candidates:
            order, connection = self._candidates[-1]
            if order == _PERFORMING_GROUP and self._uses_full_share(newcomer):
                break
            self._candidates.pop()
            if connection not in self._open or order != _closing_order(
                connection, is_greedy=True
            ):
                continue
            count = self._counts[self._open[connection]]
            if self._candidates_are_greedy and count < self._share():
                # This client has lost enough connections.  The next search may find others.
                self._candidates.clear()
                break
            return connection
        return None

    def remove(self, connection: LimitedConnection) -> None:
        self._refused.discard(connection)
        self._stalled.pop(connection, None)
        client = self._open.pop(connection, "")
        if client:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]
        if not self._open and self._empty_deferreds:
            deferreds, self._empty_deferreds = self._empty_deferreds, []
            for deferred in deferreds:
                deferred.callback(None)

    def sweep(self) -> None:
        """
        Close the connections that exceed a timeout.  A timer calls this once a second.
        """
        now = self.seconds()
        for connection in [*self._open, *self._refused]:
            try:
                self._check_timeouts(connection, now)
            except Exception:  # noqa: BLE001 it is logged, and the others are checked
                self._log.failure("a connection could not be closed")
                self.remove(connection)
                connection.abort()

    def _check_timeouts(self, connection: LimitedConnection, now: float) -> None:
        is_idle = connection.phase is Phase.IDLE
        receiving_since = connection.receiving_since
        waited = 0 if receiving_since is None else now - receiving_since
        stalled_since = connection.stalled_since
        if stalled_since is not None and self._is_stalled(connection, stalled_since, now):
            self.closed["stalled"] += 1
            connection.abort()
        elif waited > HANDSHAKE_TIMEOUT_SECONDS and connection.phase is Phase.HANDSHAKE:
            self.closed["slow"] += 1
            connection.abort()
        elif waited > REQUEST_TIMEOUT_SECONDS:
            self.closed["slow"] += 1
            connection.time_out()
        elif is_idle and now - connection.last_active > KEEP_ALIVE_TIMEOUT_SECONDS:
            self.closed["idle"] += 1
            connection.close()

    def _is_stalled(
        self, connection: LimitedConnection, stalled_since: float, now: float
    ) -> bool:
        """
        Return whether the client of a connection has taken no bytes for too long.
        """
        checked_at, last_count = self._stalled.get(connection, (0.0, None))
        if checked_at < stalled_since:
            self._stalled[connection] = stalled_since, connection.delivered_count()
            return False
        if now - checked_at <= STALL_TIMEOUT_SECONDS:
            return False
        count = connection.delivered_count()
        self._stalled[connection] = now, count
        return count == last_count

    def abort(self) -> None:
        for connection in [*self._open, *self._refused]:
            connection.abort()

    def close_idle(self) -> None:
        """
        Close the idle connections now, and each other connection as soon as it is idle.

        A new connection stays open until its first response, because its first request is
        probably about to arrive.
        """
        self.closes_idle = True
        for connection in list(self._open):
            if connection.phase is Phase.IDLE and connection.has_responded:
                connection.close()

    def close_waiting(self) -> None:
        """
        Close the connections on which this worker waits for the client.

        The next worker begins when this worker has ended.  So waiting for one slow client
        would delay all other clients.
        """
        for connection in list(self._open):
            if connection.phase is Phase.IDLE:
                connection.close()
            elif (connection.receiving_since, connection.stalled_since) != (None, None):
                connection.abort()

    def when_empty(self) -> Deferred[None]:
        if not self._open:
            return succeed(None)
        deferred: Deferred[None] = Deferred()
        self._empty_deferreds.append(deferred)
        return deferred


def _closing_order(
    connection: LimitedConnection, *, is_greedy: bool
) -> _ClosingOrder | None:
    """
    Return the place of a connection in the order of L{Connections.displace}.

    @param is_greedy: whether the connection's client is greedy.
    @return: the place; C{None} if the connection must stay open.
    """
    phase = connection.phase
    if phase is Phase.CLOSING:
        # The last response was sent.  The connection waits only for the client to close.
        return 1, connection.last_active
    if phase is Phase.IDLE:
        # On a new connection, the first request is probably about to arrive.
        return 1 if connection.has_responded else 2, connection.last_active
    if connection.receiving_since is not None:
        return 2, connection.receiving_since
    if is_greedy and connection.stalled_since is not None:
        return 3, connection.stalled_since
    # Of connections with the same order, the one that was accepted last is closed first.
    return _PERFORMING_GROUP if is_greedy else None


def count_delivered(handle: socket.socket | None) -> int | None:
    """
    Return a number that changes when the client takes some of the bytes sent to it.

    The number comes from the kernel.  A transport reports only that its buffer is full, and
    later that the buffer has space again.  Between these reports, some megabytes are sent.
    A client with a slow line needs minutes for them, so it would seem to take nothing.

    @param handle: the connection's socket; C{None} if the transport has none.
    @return: for TCP, the number of bytes that the peer's kernel has acknowledged.  For a
        Unix socket, the negative number of the bytes that the peer has not read.  C{None}
        if the kernel tells neither number.
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
