"""
What the connections of one worker share.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pexservice.process.periodic import Periodic
from pexservice.server.access_log import AccessLog
from pexservice.server.limits import Connections
from pexservice.server.parser import Head
from pexservice.server.parsing_budget import ParsingBudget
from pexservice.server.plans import Framing, Plan, Plans
from pexservice.server.request_counters import RequestCounters
from pexservice.server.response_writer import ResponseWriter
from pexservice.web.clients import Peer
from pexservice.web.operations import Operation, Request
from pexservice.web.parameters import (
    CONNECTION,
    FORWARDED_FOR,
    ORIGIN,
    Arguments,
    persistence,
    preferences,
)
from pexservice.web.performer import Performer
from pexservice.web.responses import Response


class Server:
    """
    The shared state of one worker's connections.

    @ivar ask: returns what the handler of a request returns.
    @ivar log: the access log, if there is one.
    @ivar seconds: a monotonic clock.
    @ivar call_soon: makes a call in the next turn of the event loop.
    """

    def __init__(
        self,
        ask: Callable[[Request], Operation | Response | Deferred[Response]],
        performer: Performer,
        connections: Connections,
        requests: RequestCounters,
        reactor: IReactorTime,
        *,
        call_soon: Callable[[Callable[[], None]], object],
        log: AccessLog | None = None,
    ) -> None:
        self.ask = ask
        self.performer = performer
        self.connections = connections
        self.requests = requests
        self.plans = Plans(performer.bind, performer.meanings())
        self.writer = ResponseWriter()
        self.parsing = ParsingBudget(call_soon)
        self.log = log
        self.seconds = connections.seconds
        self.call_soon = call_soon
        self.call_later = reactor.callLater
        # A timer each, so that an error in one call does not stop the other.
        self._timers = [Periodic(call, reactor) for call in (self.tick, connections.sweep)]

    def start(self) -> None:
        """
        Start what is done once a second; starting twice does no harm.
        """
        self._stop_timers()
        for timer in self._timers:
            timer.start(1.0)

    def stop(self) -> None:
        """
        Stop what is done once a second, and close the access log.
        """
        self._stop_timers()
        if self.log is not None:
            self.log.close()

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.stop()

    def drain(self) -> None:
        """
        From now on every response is the last of its connection, and says so.
        """
        self.connections.closing = True
        self.plans.close()

    def tick(self) -> None:
        """
        Begin another second in the responses, the access log and the plans.
        """
        self.writer.tick()
        if self.log is not None:
            self.log.tick()
        self.plans.tick()

    def plan(self, head: Head) -> Plan:
        """
        Return the plan of a request that no handler was asked for yet.
        """
        line, arguments = head.line, head.arguments
        wishes = persistence(arguments.get(CONNECTION, ()))
        keeps = wishes.keeps if line.version == b"HTTP/1.0" else not wishes.closes
        # Every response has its length, so HTTP/1.0 can keep its connection too.
        last = not keeps or self.connections.closing
        connection = None
        if last:
            connection = b"close"
        elif line.version == b"HTTP/1.0":
            connection = b"keep-alive"
        framing = Framing(
            line.version,
            connection,
            last=last,
            browser_headers=self.performer.browser_headers(arguments.get(ORIGIN, ())),
            preferences=preferences(arguments),
            bodiless=line.method == b"HEAD",
        )
        return Plan(None, framing, self.requests.tally(line.path, line.method))

    def log_response(
        self, peer: Peer, arguments: Arguments, line: bytes, status: int, length: int
    ) -> None:
        """
        Write a response into the access log, if there is one.

        @param line: the request line, escaped.
        @param length: the length of the body that was sent.
        """
        if self.log is not None:
            forwarded = arguments.get(FORWARDED_FOR)
            host = self.performer.clients.client_host(peer, forwarded)
            self.log.add(host, line, status, length, arguments)
