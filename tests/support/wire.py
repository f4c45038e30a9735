"""
A connection without a network: bytes in, bytes out, turn by turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from pexservice.commit.committer import Committer
from pexservice.commit.optimistic import OptimisticCommitter
from pexservice.metrics import Metrics
from pexservice.process.scoreboard import Score
from pexservice.server.access_log import AccessLog
from pexservice.server.connection import Connection
from pexservice.server.fast_path import FastPath
from pexservice.server.limits import Connections
from pexservice.server.site import PexSite
from pexservice.stores.etcd.store import EtcdStore
from pexservice.web.access import Access
from pexservice.web.api import Api
from pexservice.web.clients import Clients
from pexservice.web.dns_rebinding import HostPolicy
from pexservice.web.endpoints import TABLE, Table
from pexservice.web.events import Events
from pexservice.web.performer import Performer
from pexservice.web.throttle import RateLimit
from tests.support.fake_etcd import FakeCaller
from tests.support.fakes import MemoryStore, Turns, now

_DATE = re.compile(rb"(?m)^Date: [^\r]*\r\n")

#: More turns than any conversation here takes.
ENOUGH = 200


class Sink:
    """
    A sink of an access log that keeps the lines, or fails.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.failure: OSError | None = None
        self.reopened = self.closed = 0

    def write(self, lines: Sequence[bytes]) -> None:
        """
        Keep the lines, or raise the failure that was arranged.
        """
        if self.failure is not None:
            raise self.failure
        self.lines += lines

    def reopen(self) -> None:
        """
        Count how often the log was opened again.
        """
        self.reopened += 1

    def close(self) -> None:
        """
        Count how often the log was closed.
        """
        self.closed += 1


class Server:
    """
    One worker's web and connections over a store in memory.
    """

    def __init__(
        self,
        *,
        remembers: bool = True,
        rate: int | None = None,
        access: Access | None = None,
        connections: int = 100,
        streams: int = 10,
        proxies: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
        table: Table = TABLE,
        logs: bool = False,
        etcd: FakeCaller | None = None,
    ) -> None:
        """
        Make the worker's parts, and start its committer.

        @param remembers: C{False} to have every request parsed.
        @param etcd: a caller of an etcd for its store instead, which answers at first.
        @param logs: whether it has an access log, whose lines are in L{lines}.
        @param hosts: the host names that are answered over loopback.
        """
        self.clock = Turns()
        # 0 stands for "not" with some times.
        self.clock.rightNow = 1000.0
        self.store = MemoryStore()
        self.sink = Sink()
        self.failures: list[Failure] = []
        make: Callable[..., Committer] = partial(Committer, self.store)
        if etcd is not None:
            shared = EtcdStore(etcd, "p/")
            make = cast(Callable[..., Committer], partial(OptimisticCommitter, shared))
        self.committer = make(
            self.clock,
            fatal=self.failures.append,
            # Two servers that did the same tell the same history.
            time_ns=lambda: 1_795_000_000_123_456_789,
        )
        now(Deferred.fromCoroutine(self.committer.start()))
        self.connections = Connections(connections, self.clock.seconds)
        clients, access = Clients(proxies), access or Access()
        limit = None if rate is None else RateLimit(rate, self.clock.seconds)
        policy = HostPolicy(hosts, own_name="box")
        self.performer = performer = Performer(
            self.committer, access, clients, hosts=policy, limit=limit
        )
        self.fast_path = FastPath(
            performer,
            self.connections,
            self.clock,
            log=AccessLog(self.sink, lambda: 1_795_000_000.0) if logs else None,
        )
        if not remembers:
            self.fast_path.cache.retire()
        scrape = Metrics(self.committer, self.fast_path).reply
        #: The counts of a supervisor, for tests that have one.
        self.score: Score | None = None
        self.events = Events(
            self.committer, self.clock.callLater, streams, lambda: self.score
        )
        api = Api(
            self.committer,
            performer,
            self.events,
            table=table,
            # No page of the history waits.
            later=lambda _, call: call(),
            scrape=scrape,
        )
        self.site = PexSite(api.resource(), self.fast_path, self.clock)

    def begin_at(self, revision: int, position: int) -> None:
        """
        Have the cursor there, as if the process had begun so.
        """
        self.store.revision, self.store.position = revision, position
        now(Deferred.fromCoroutine(self.committer.start()))

    @property
    def lines(self) -> list[bytes]:
        """
        Return the lines of the access log.
        """
        if self.fast_path.log is not None:
            self.fast_path.log.flush()
        return self.sink.lines

    def connect(self, peer: object = None, local: object = None) -> Wire:
        """
        Return a new connection.
        """
        return Wire(self, peer, local)

    def turns(self, count: int = ENOUGH) -> None:
        """
        Let everything happen that can.
        """
        for _ in range(count):
            self.clock.turn()


class _Transport(StringTransport):
    """
    Twisted's transport for tests, which can be closed in one direction.

    It reads when it is told to.
    """

    aborted = False
    half_closed = False

    def unregisterProducer(self) -> None:
        """
        Forget the producer, as with real transports also without any; see L{IConsumer}.
        """
        self.producer = None

    def loseWriteConnection(self) -> None:
        """
        Note a half-close by the service.
        """
        self.half_closed = True

    def abortConnection(self) -> None:
        """
        Note that the connection is aborted, and abort it.
        """
        self.aborted = True
        super().abortConnection()


class Wire:
    """
    The client's end of a connection.
    """

    def __init__(self, server: Server, peer: object, local: object = None) -> None:
        self._server = server
        self.transport = _Transport(peerAddress=peer, hostAddress=local)
        self.protocol: Connection = server.site.buildProtocol(None)
        self._waiting: list[bytes] = []
        self.protocol.makeConnection(self.transport)

    def send(self, *chunks: bytes) -> None:
        """
        Have C{chunks} arrive, each when the other end reads.
        """
        self._waiting += chunks
        self._arrive()

    def _arrive(self) -> None:
        while (
            self._waiting
            and self.transport.producerState == "producing"
            and not self.transport.disconnecting
        ):
            self.protocol.dataReceived(self._waiting.pop(0))

    def turns(self, count: int = ENOUGH) -> None:
        """
        Let everything happen that can.
        """
        for _ in range(count):
            self._server.clock.turn()
            self._arrive()

    def end(self) -> None:
        """
        Close the client's half, after all that can happen: the client will send no more.
        """
        self.turns()
        self.protocol.readConnectionLost()

    def lose(self) -> None:
        """
        Lose the connection.
        """
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def received(self) -> bytes:
        """
        Return what the client has received, without the dates.
        """
        return _DATE.sub(b"", self.transport.value())

    @property
    def closed(self) -> bool:
        """
        Return whether the other end has closed, or will send no more.
        """
        return bool(self.transport.disconnecting) or self.transport.half_closed
