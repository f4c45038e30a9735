"""
A connection without a network, whose event loop runs one iteration at a time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pexservice.commit.asynchronous import AsynchronousCommitter
from pexservice.commit.committer import Committer
from pexservice.core.cursor import Cursor
from pexservice.metrics import Metrics
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.server.access_log import OWN_LOG, AccessLog
from pexservice.server.connection import Connection
from pexservice.server.limits import Connections, Phase
from pexservice.server.request_counters import RequestCounters
from pexservice.server.server import Server as ConnectionServer
from pexservice.server.templates import Template
from pexservice.web.access import Access, HostPolicy
from pexservice.web.api import Api
from pexservice.web.clients import Clients, RateLimit
from pexservice.web.endpoints import DEFAULT_TABLE, EndpointTable
from pexservice.web.events import Events
from pexservice.web.operations import RequestChecker
from tests.support.fakes import MemoryStore, Turns, now

_STATUS = re.compile(rb"(?m)^HTTP/1\.1 (\d{3}) ")
_DATE = re.compile(rb"(?m)^Date: [^\r]*\r\n")

#: More iterations of the event loop than any conversation needs.
ENOUGH = 200


class KeptLog(AccessLog):
    """
    An access log that keeps its lines in memory, or fails to write.
    """

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.failure: OSError | None = None
        super().__init__(OWN_LOG, lambda: 1_795_000_000.0)

    def _write(self, lines: Sequence[bytes]) -> None:
        if self.failure is not None:
            raise self.failure
        self.written += lines


class Server:
    """
    The API and the connections of one worker, with a store in memory.
    """

    def __init__(
        self,
        *,
        remembers: bool = True,
        rate: int | None = None,
        access: Access | None = None,
        connections: int = 100,
        streams: int = 10,
        pauses: bool = False,
        proxies: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
        table: EndpointTable = DEFAULT_TABLE,
        logs: bool = False,
        synchronous: bool = True,
        report: SupervisorReport | None = None,
    ) -> None:
        """
        Create the worker's parts, and start its committer.

        @param remembers: whether a request that was handled before skips its handler.
        @param logs: write an access log, see L{lines}.
        @param hosts: the accepted host names on loopback connections.
        @param pauses: whether there is a pause between two pages of the history.
        @param report: the supervisor's report.
        """
        self.clock = Turns()
        # Some times use 0 for "never".
        self.clock.rightNow = 1000.0
        self.store = MemoryStore()
        self.log = KeptLog() if logs else None
        self.failures: list[Failure] = []
        committer = Committer if synchronous else AsynchronousCommitter
        self.committer = committer(
            self.store,
            self.clock,
            on_fatal_failure=self.failures.append,
            # Two servers with the same steps have the same history.
            time_ns=lambda: 1_795_000_000_123_456_789,
        )
        now(Deferred.fromCoroutine(self.committer.start()))
        self.connections = Connections(connections, self.clock.seconds)
        clients, access = Clients(proxies), access or Access()
        limit = None if rate is None else RateLimit(rate, self.clock.seconds)
        policy = HostPolicy(hosts, own_name="box")
        self.checker = checker = RequestChecker(
            self.committer, access, clients, hosts=policy, limit=limit
        )
        requests = RequestCounters()
        self.report = report
        metrics = Metrics(
            *(self.committer, requests, self.connections, self.store), lambda: self.report
        )
        self.events = Events(
            self.committer, self.clock.callLater, streams, lambda: self.report
        )
        self.api = api = Api(
            self.committer,
            checker,
            self.events,
            table=table,
            call_later=self.clock.callLater if pauses else lambda _, call: call(),
            metrics_response=metrics.response,
            read_report=lambda: self.report,
        )
        self.shared = ConnectionServer(
            api.call_handler,
            checker,
            self.connections,
            requests,
            self.clock,
            call_soon=lambda call: self.clock.callLater(0, call),
            log=self.log,
        )
        if not remembers:
            self.shared.request_cache.stop()

    def begin_at(self, revision: int, position: int) -> None:
        """
        Start again with the cursor at this revision and position.
        """
        self.store.cursor = Cursor(revision, position)
        now(Deferred.fromCoroutine(self.committer.start()))

    @property
    def lines(self) -> list[bytes]:
        """
        The lines of the access log.
        """
        if self.log is None:
            return []
        self.log.flush()
        return self.log.written

    def connect(self, peer: object = None, local: object = None) -> Wire:
        return Wire(self, peer, local)

    def ask(self, *chunks: bytes, peer: object = None) -> Wire:
        """
        Send C{chunks} on a new connection and let everything happen.
        """
        wire = self.connect(peer)
        wire.send(*chunks)
        wire.turns()
        return wire

    def turns(self, count: int = ENOUGH) -> None:
        """
        Run iterations of the event loop: C{count}, or fewer if everything has finished.
        """
        for _ in range(count):
            if not self.clock.turn():
                break


class Transport(asyncio.Transport):
    """
    A transport that keeps the written bytes, and whose client sends when the test says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()
        self.is_reading_ = True
        self.aborted = self.half_closed = self._closing = False

    def value(self) -> bytes:
        return bytes(self._written)

    def clear(self) -> None:
        self._written.clear()

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self._closing, "written after the end"
        self._written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self.aborted = self._closing = True

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self.is_reading_

    def pause_reading(self) -> None:
        self.is_reading_ = False

    def resume_reading(self) -> None:
        self.is_reading_ = True


class Wire:
    """
    The client's end of a connection.
    """

    def __init__(self, server: Server, peer: object, local: object = None) -> None:
        self.server = server
        self.transport = Transport()
        host = getattr(peer or IPv4Address("TCP", "192.168.1.1", 54321), "host", None)
        local_host = getattr(local or IPv4Address("TCP", "10.0.0.1", 80), "host", "")
        assert host is not None or isinstance(peer, UNIXAddress)
        clients = server.checker.clients
        end = clients.peer(host, local_host)
        self.protocol = Connection(server.shared, end)
        if not server.connections.admit(self.protocol, clients.client_of(end)):
            server.connections.add_refused(self.protocol)
            self.protocol.phase = Phase.REFUSED
        self._waiting: list[bytes] = []
        self.protocol.connection_made(self.transport)

    def send(self, *chunks: bytes) -> None:
        """
        Send C{chunks}.  Each arrives as soon as the server reads.
        """
        self._waiting += chunks
        self._arrive()

    def _arrive(self) -> None:
        while (
            self._waiting
            and self.transport.is_reading()
            and not self.transport.is_closing()
        ):
            self.protocol.data_received(self._waiting.pop(0))

    def turns(self, count: int = ENOUGH) -> None:
        """
        Run iterations of the event loop: C{count}, or fewer if everything has finished.
        """
        for _ in range(count):
            self._arrive()
            if not self.server.clock.turn():
                break

    def end(self) -> None:
        """
        Close the client's half of the connection after everything has finished.
        """
        self.turns()
        self.half_close()

    def half_close(self) -> None:
        """
        Close the client's half of the connection now.
        """
        if not self.transport.is_closing():
            self.protocol.eof_received()

    def lose(self) -> None:
        self.protocol.connection_lost(None)

    @property
    def templates(self) -> tuple[Template, ...]:
        return self.protocol.recognizer.templates

    @property
    def received(self) -> bytes:
        """
        The bytes that the client has received, without the C{Date} headers.
        """
        return _DATE.sub(b"", self.transport.value())

    @property
    def statuses(self) -> list[int]:
        """
        The statuses of the responses that the client has received.
        """
        return [int(status) for status in _STATUS.findall(self.transport.value())]

    @property
    def closed(self) -> bool:
        """
        Whether the server has closed the connection, or its half of it.
        """
        return self.transport.is_closing() or self.transport.half_closed
