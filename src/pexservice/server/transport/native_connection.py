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
        Half-close the connection: send no more, but read on.
        """
        self._native.write_eof()

    def getTcpNoDelay(self) -> bool:
        """
        Return C{True}: uvloop sets the option.
        """
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: FBT001 the interface's
        """
        Do nothing: uvloop sets the option.
        """

    def getTcpKeepAlive(self) -> bool:
        """
        Return whether the socket has TCP keep-alive switched on.
        """
        option = self._native.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE
        )
        return bool(option)

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: FBT001 the interface's
        """
        Switch TCP keep-alive of the socket on or off.
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
        Begin a connection, or have C{native} carry one that was accepted here.
        """
        if self.connected:
            self.transport.carry(native)
            # A connection that closes was unregistered, and uvloop may have to wait for
            # its client.
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
        Take a half-close: the client will send no more.

        @return: whether the client can still be sent to.
        """
        if not ITCPTransport.providedBy(self.transport):
            return False
        self.readConnectionLost()
        return True

    def pause_writing(self) -> None:
        """
        Tell the transport that the client does not take its answers.
        """
        self.transport.full()

    def resume_writing(self) -> None:
        """
        Tell the transport that the client has taken its answers.
        """
        self.transport.drained()

    def connection_lost(self, error: BaseException | None) -> None:
        """
        End the connection, for the reason that C{error} gives.
        """
        self.connectionLost(reason_of(error))
