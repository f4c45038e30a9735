"""
The protocol factory: one resource, for every connection of one worker.
"""

from __future__ import annotations

import time
from typing import TypeVar

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web.http import Request, datetimeToLogString
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from pexservice.process.periodic import Periodic
from pexservice.server.channel import PexChannel
from pexservice.server.connection import Connection
from pexservice.server.fast_path import FastPath
from pexservice.server.interfaces import ISite
from pexservice.server.request import PexRequest

C = TypeVar("C", bound=Connection)

#: The access log's name for the daemon's own log.
OWN_LOG = "-"


@implementer(ISite)
class PexSite(Site):
    """
    @ivar fast_path: what its connections share.
    """

    # Twisted's own lines about a factory that starts say nothing of ours.
    noisy = False

    def __init__(
        self,
        resource: Resource,
        fast_path: FastPath,
        reactor: IReactorTime,
        *,
        access_log: str | None = None,
    ) -> None:
        """
        @param access_log: the path of the access log, L{OWN_LOG} for the daemon's
            log, or none.
        """
        super().__init__(
            resource,
            requestFactory=PexRequest,
            logPath=None if access_log in (None, OWN_LOG) else access_log,
            timeout=None,
            reactor=reactor,
        )
        self.fast_path = fast_path
        self._logs = access_log is not None
        # Apart, so that an error of the one does not cost the other.
        self._each_second = [
            Periodic(call, reactor)
            for call in (fast_path.tick, fast_path.connections.sweep)
        ]

    def buildProtocol(self, addr: IAddress | None) -> Connection:  # type: ignore[override]
        """
        See L{IProtocolFactory.buildProtocol}.
        """
        return self.connection(Connection)

    def connection(self, kind: type[C]) -> C:
        """
        Return a new connection of C{kind}.
        """
        return kind(self.fast_path, self._channel)

    def _channel(self, connection: Connection) -> PexChannel:
        channel = PexChannel(connection, self.fast_path)
        channel.factory = channel.site = self
        channel.callLater = self.reactor.callLater  # type: ignore[method-assign,assignment]
        channel.timeOut = None
        return channel

    @property
    def closing(self) -> bool:
        """
        Whether the worker stops, so that each answer is its connection's last.
        """
        return self.fast_path.connections.closing

    def startFactory(self) -> None:
        """
        See L{Factory.startFactory}.
        """
        super().startFactory()
        for each in self._each_second:
            each.start(1.0)

    def stopFactory(self) -> None:
        """
        See L{Factory.stopFactory}.
        """
        super().stopFactory()
        for each in self._each_second:
            each.stop()

    def _updateLogDateTime(self) -> None:
        """
        The inherited one takes the reactor's seconds for the time of day.
        """
        self._logDateTime = datetimeToLogString(time.time())
        self._logDateTimeCall = self.reactor.callLater(1, self._updateLogDateTime)

    def log(self, request: Request) -> None:
        """
        A line in the access log, if there is one: it costs as much as an answer.
        """
        if self._logs:
            super().log(request)
