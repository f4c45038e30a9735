"""
The protocol factory: one resource, for every connection of one worker.
"""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from pexservice.process.periodic import Periodic
from pexservice.server.channel import PexChannel
from pexservice.server.connection import Connection
from pexservice.server.fast_path import FastPath
from pexservice.server.interfaces import ISite

C = TypeVar("C", bound=Connection)


@implementer(ISite)
class PexSite(Site):
    """
    The factory of one worker's connections.

    @ivar fast_path: the state that its connections share.
    """

    # Twisted's own lines about a factory that starts say nothing of ours.
    noisy = False

    def __init__(
        self, resource: Resource, fast_path: FastPath, reactor: IReactorTime
    ) -> None:
        super().__init__(resource, timeout=None, reactor=reactor)
        self.fast_path = fast_path
        # A timer each, so that an error in one call does not stop the other.
        self._each_second = [
            Periodic(call, reactor)
            for call in (fast_path.tick, fast_path.connections.sweep)
        ]

    def buildProtocol(self, addr: IAddress | None) -> Connection:  # type: ignore[override]
        """
        Return a new connection, on a transport of Twisted's.
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
        Return whether the worker stops, so that each answer is its connection's last.
        """
        return self.fast_path.connections.closing

    def acceptableProtocols(self) -> list[bytes]:
        """
        Return the one protocol that is spoken; Twisted's TLS asks.

        The inherited method also names HTTP/2 where Twisted has it, but no connection of
        ours speaks it.
        """
        return [b"http/1.1"]

    def log(self, request: Request) -> None:
        """
        Do nothing: the channel writes the access log.
        """

    def startFactory(self) -> None:
        """
        Start what is done once a second.

        The inherited method is not called: it keeps the time for a log that is not used.
        """
        for each in self._each_second:
            each.start(1.0)

    def stopFactory(self) -> None:
        """
        Stop what is done once a second.
        """
        for each in self._each_second:
            each.stop()
