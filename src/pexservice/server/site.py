"""
The protocol factory: one resource, for every connection of one worker.
"""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Site

from pexservice.process.periodic import Periodic
from pexservice.server.connection import Connection
from pexservice.server.fast_path import FastPath

C = TypeVar("C", bound=Connection)


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
        return kind(self.fast_path, self)

    def acceptableProtocols(self) -> list[bytes]:
        """
        Return the one protocol that is spoken; Twisted's TLS asks.

        The inherited method also names HTTP/2 where Twisted has it, but no connection of
        ours speaks it.
        """
        return [b"http/1.1"]

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
