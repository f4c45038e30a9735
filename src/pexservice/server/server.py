"""
The L{Server}: the objects that all connections of one worker share, and its shutdown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from pexservice.process.timing import Periodic
from pexservice.server.access_log import AccessLog
from pexservice.server.limits import Connections
from pexservice.server.parser import HeadReader, RequestLine
from pexservice.server.recognition import RequestCache
from pexservice.server.request_counters import RequestCounters
from pexservice.server.response_writer import ResponseFormat, ResponseWriter
from pexservice.web.clients import Peer
from pexservice.web.operations import HandlerResult, Request, RequestChecker
from pexservice.web.parameters import (
    CONNECTION,
    FORWARDED_FOR,
    ORIGIN,
    RequestHeaders,
    persistence,
    preferences_of,
)

#: How long all connections together may parse in one iteration of the event loop.
#: Iterations must be short, because a new client waits for several of them until its first
#: response.
MAX_SECONDS_PER_ITERATION = 0.01

#: The times of L{Server.drain}.  A commit may block the process for longer than the first
#: time, and a blocked process reads no requests.  So this time is divided into rounds: the
#: commit takes the time of one round only, and the process reads in the next round.
DRAIN_TIMEOUT_SECONDS = 0.3
DRAIN_ROUNDS = 6
READ_AGAIN_SECONDS = 0.001
FIRST_REQUEST_TIMEOUT_SECONDS = 0.5
LAST_RESPONSE_TIMEOUT_SECONDS = 2


class ParsingBudget:
    """
    The time that all connections may spend on parsing in one iteration of the event loop.

    A client can send input that costs much more to parse than to send, such as a body in
    chunks of one byte, and can send it on thousands of connections.  A limit for each
    connection would not bound the total, so all connections share one budget.  When the
    budget is spent, the connections wait in a queue.  In a later iteration, each of them
    parses a small part of its input.  A recognized request is not parsed, so it need not
    wait.  With TLS, decrypting input counts as parsing it, and may have to wait.

    A TLS handshake takes about a millisecond and cannot be divided.  So new input, of which
    no part was parsed yet, waits in one queue for each client; the clients are served
    round-robin: if one client begins a thousand handshakes, another waits for one of them.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        seconds: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        @param call_soon: makes a call in the next iteration of the event loop.
        """
        self.seconds = seconds
        self._call_soon = call_soon
        self._seconds_left = MAX_SECONDS_PER_ITERATION
        self._queue: deque[Callable[[], None]] = deque()
        # The parsing calls of connections with new input, by client.
        self._new_input: dict[str, deque[Callable[[], None]]] = {}
        self._renewal_scheduled = False

    @property
    def has_time(self) -> bool:
        """
        Return whether a connection with new input may parse it in this iteration.
        """
        return self._seconds_left > 0

    @property
    def must_wait(self) -> bool:
        """
        Return whether a connection that has parsed a part must parse its next part later.
        """
        return self._seconds_left <= 0 or bool(self._queue or self._new_input)

    def spend(self, seconds: float) -> None:
        self._seconds_left -= seconds
        if not self._renewal_scheduled:
            self._renewal_scheduled = True
            self._call_soon(self._renew)

    def wait(self, parse: Callable[[], None], client: str | None = None) -> None:
        """
        Call C{parse} in a later iteration.

        @param client: the client, if no part of the input was parsed yet.  Such new input
            is parsed before other waiting input, and its clients are served round-robin.
        """
        if client is None:
            self._queue.append(parse)
        else:
            self._new_input.setdefault(client, deque()).append(parse)
        self.spend(0)

    def _renew(self) -> None:
        self._renewal_scheduled = False
        self._seconds_left = MAX_SECONDS_PER_ITERATION
        # A connection that has to wait again goes to the end of the queue.
        while (self._new_input or self._queue) and self._seconds_left > 0:
            self._pop_first()()
        if self._new_input or self._queue:
            self.spend(0)

    def _pop_first(self) -> Callable[[], None]:
        if not self._new_input:
            return self._queue.popleft()
        client = next(iter(self._new_input))
        waiting = self._new_input.pop(client)
        parse = waiting.popleft()
        if waiting:
            # All other clients come before the next input of this client.
            self._new_input[client] = waiting
        return parse


class Server:
    """
    The objects that all connections of one worker share.

    @ivar call_handler: calls the handler of a request.
    @ivar log: the access log, if there is one.
    @ivar seconds: a monotonic clock.
    @ivar call_soon: makes a call in the next iteration of the event loop.
    """

    def __init__(
        self,
        call_handler: Callable[[Request], HandlerResult],
        checker: RequestChecker,
        connections: Connections,
        counters: RequestCounters,
        reactor: IReactorTime,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        log: AccessLog | None = None,
    ) -> None:
        self.call_handler = call_handler
        self.checker = checker
        self.connections = connections
        self.counters = counters
        self.reader = HeadReader(checker.deciding_headers())
        self.request_cache = RequestCache()
        self.writer = ResponseWriter()
        self.parsing_budget = ParsingBudget(call_soon)
        self.log = log
        self.seconds = connections.seconds
        self.call_soon = call_soon
        self.call_later = reactor.callLater
        self._reactor = reactor
        # There are two timers, so that the second function is called even if the first one
        # raises an error.
        self._timers = [Periodic(call, reactor) for call in (self.tick, connections.sweep)]

    def start(self) -> None:
        """
        Start the timers, or restart them.
        """
        for timer in self._timers:
            timer.stop()
            timer.start(1.0)

    def stop(self) -> None:
        for timer in self._timers:
            timer.stop()
        if self.log is not None:
            self.log.close()

    async def drain(
        self, close_listeners: Callable[[], Awaitable[None]], *, serves: bool
    ) -> None:
        """
        Respond to the requests that clients have sent, and close all connections.

        From now on, every connection is closed after its response, so a client opens a new
        connection for its next request.

          1. The worker accepts connections for L{DRAIN_TIMEOUT_SECONDS} more, or until no
             connection is left.
          2. The worker closes its listeners, and runs the event loop once more.  So it
             reads the requests that arrived while a commit blocked the process.
          3. The worker closes the idle connections, except new ones, whose first request
             is probably about to arrive.  After L{FIRST_REQUEST_TIMEOUT_SECONDS}, it closes
             all connections on which it waits for the client.
          4. The worker waits until all requests have their responses, but at most
             L{LAST_RESPONSE_TIMEOUT_SECONDS}.  Then it aborts the remaining connections.

        @param serves: whether the worker accepts connections and steps.  If not, item 1 is
            left out.
        """
        connections = self.connections
        connections.is_draining = True
        self.request_cache.stop()
        for _ in range(DRAIN_ROUNDS if serves else 0):
            if await self._wait_until_empty(DRAIN_TIMEOUT_SECONDS / DRAIN_ROUNDS):
                break
        await close_listeners()
        await self._wait_until_empty(READ_AGAIN_SECONDS)
        connections.close_idle()
        if not await self._wait_until_empty(FIRST_REQUEST_TIMEOUT_SECONDS):
            connections.close_waiting()
        if not await self._wait_until_empty(LAST_RESPONSE_TIMEOUT_SECONDS):
            connections.abort()

    async def _wait_until_empty(self, seconds: float) -> bool:
        """
        Wait until there are no connections, for at most C{seconds}.

        @return: whether there are no connections.
        """
        try:
            await self.connections.when_empty().addTimeout(seconds, self._reactor)
        except DeferredTimeout:
            return False
        return True

    def tick(self) -> None:
        self.writer.tick()
        if self.log is not None:
            self.log.tick()
        self.request_cache.tick()

    def response_format(self, line: RequestLine, headers: RequestHeaders) -> ResponseFormat:
        requested = persistence(headers.get(CONNECTION, ()))
        if line.version == b"HTTP/1.0":
            # HTTP/1.0 can keep a connection too, because all responses except streams have
            # a Content-Length.
            keeps, connection_header = requested.keeps, b"keep-alive"
        else:
            keeps, connection_header = not requested.closes, None
        closes = not keeps or self.connections.is_draining
        return ResponseFormat(
            tally=self.counters.tally(line.path, line.method),
            version=line.version,
            connection_header=b"close" if closes else connection_header,
            closes_connection=closes,
            browser_headers=self.checker.access.browser_headers(headers.get(ORIGIN, ())),
            preferences=preferences_of(headers),
            omits_body=line.method == b"HEAD",
        )

    def refusal_format(self, method: bytes, headers: RequestHeaders) -> ResponseFormat:
        """
        Return the format for a malformed or slow request, or a connection over the limit.
        """
        return ResponseFormat(
            tally=self.counters.refused_tally,
            version=b"HTTP/1.1",
            connection_header=b"close",
            closes_connection=True,
            browser_headers=self.checker.access.browser_headers(headers.get(ORIGIN, ())),
            preferences=preferences_of(headers),
            omits_body=method == b"HEAD",
        )

    def log_response(
        self, peer: Peer, headers: RequestHeaders, line: bytes, status: int, length: int
    ) -> None:
        """
        Write a line into the access log, if there is one.

        @param line: the escaped request line.
        @param length: how many bytes of body were sent.
        """
        if self.log is not None:
            forwarded = headers.get(FORWARDED_FOR)
            host = self.checker.clients.client_address(peer, forwarded)
            self.log.add(host, line, status, length, headers)
