"""
Native connections: the protocol of a connection, as uvloop calls it.

uvloop calls a L{NativeConnection} as asyncio's protocols are called; the names in
small letters with underscores are asyncio's.
"""

from __future__ import annotations

import asyncio
import socket

from twisted.internet.interfaces import ITCPTransport
from zope.interface import implementer

from pexservice.server.connection import Connection
from pexservice.server.transport.streams import NativeTransport, reason_of


@implementer(ITCPTransport)
class NativeTCPTransport(NativeTransport):
    """
    A transport that can be closed in one direction, which TLS cannot.
    """

    __slots__ = ()

    def loseWriteConnection(self) -> None:
        """
        See C{ITCPTransport.loseWriteConnection}.
        """
        self._native.write_eof()

    def getTcpNoDelay(self) -> bool:
        """
        It is set, by uvloop.
        """
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001 the interface's
        """
        As L{getTcpNoDelay} says.
        """

    def getTcpKeepAlive(self) -> bool:
        """
        See C{ITCPTransport.getTcpKeepAlive}.
        """
        option = self._native.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE
        )
        return bool(option)

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: FBT001 the interface's
        """
        See C{ITCPTransport.setTcpKeepAlive}.
        """
        opened = self._native.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)


class NativeConnection(Connection):
    """
    A connection, as uvloop sees it.
    """

    transport: NativeTransport  # type: ignore[assignment]

    def connection_made(self, native: asyncio.Transport) -> None:
        """
        Begin, or have uvloop carry a connection that was accepted here.
        """
        if self.connected:
            self.transport.carry(native)
            # If it closes it was unregistered, and uvloop may have to wait for the client.
            self.transport.unregisterProducer()
            self.transport.registerProducer(self, streaming=True)
            self.transport.finish()
        else:
            kind = NativeTCPTransport if native.can_write_eof() else NativeTransport
            transport = kind()
            transport.carry(native)
            self.makeConnection(transport)
        self.write = native.write

    # Bound by uvloop once a connection, so a chunk of bytes costs no further call.
    data_received = Connection.dataReceived

    def eof_received(self) -> bool:
        """
        The client will send no more.

        @return: whether it can still be sent to.
        """
        if not ITCPTransport.providedBy(self.transport):
            return False
        self.readConnectionLost()
        return True

    def pause_writing(self) -> None:
        """
        The client does not take its answers.
        """
        self.transport.full()

    def resume_writing(self) -> None:
        """
        It has taken them.
        """
        self.transport.drained()

    def connection_lost(self, error: BaseException | None) -> None:
        """
        It is over.
        """
        self.connectionLost(reason_of(error))
