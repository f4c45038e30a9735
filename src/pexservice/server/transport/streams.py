"""
Native streams: connections by uvloop's own transports.

Twisted's TCP transports run on uvloop's loop as on any other, and cost half of its
speed: each accept, read and write is Python's then.  So others accept from a port that
Twisted has opened, L{pexservice.server.transport.listener} or for TLS uvloop,
and connections get uvloop's transports, with Twisted's interfaces put around them by
L{NativeTransport}.  What is above is the same L{Connection} that runs on every other
reactor.

uvloop calls a L{NativeConnection} as asyncio's protocols are called; the names in
small letters with underscores are asyncio's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IListeningPort,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.process.fd_endpoint import BACKLOG
from pexservice.server.connection import Connection
from pexservice.server.transport.listener import Acceptor
from pexservice.server.transport.nonpersistent import address_of

if TYPE_CHECKING:
    from pexservice.server.site import PexSite
    from pexservice.server.transport.nonpersistent import BriefTransport

_DONE = Failure(ConnectionDone())


@implementer(ITransport, IConsumer, IPushProducer)
class NativeTransport:
    """
    Twisted's interfaces around a transport of uvloop.

    @ivar disconnecting: it is being closed.
    """

    __slots__ = ("_native", "_producer", "_reads", "disconnecting", "write")

    def __init__(self, native: asyncio.Transport) -> None:
        self._native = native
        self._producer: IPushProducer | None = None
        self._reads = True
        self.disconnecting = False
        self.write = native.write

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """
        See C{ITransport.writeSequence}.
        """
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """
        See C{ITransport.loseConnection}.
        """
        self.disconnecting = True
        self._native.close()

    def abortConnection(self) -> None:
        """
        See C{ITCPTransport.abortConnection}.
        """
        self.disconnecting = True
        self._native.abort()

    def getPeer(self) -> Any:
        """
        See C{ITransport.getPeer}.
        """
        return self._address("peername")

    def getHost(self) -> Any:
        """
        See C{ITransport.getHost}.
        """
        return self._address("sockname")

    def getHandle(self) -> socket.socket | None:
        """
        Return the socket, as Twisted's own transports do.
        """
        found: socket.socket | None = self._native.get_extra_info("socket")
        return found

    def _address(self, which: str) -> IAddress:
        return address_of(self._native.get_extra_info(which))

    # Backpressure: the client's, as IConsumer, and ours, as IPushProducer.

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: FBT001 the interface's
        """
        See C{IConsumer.registerProducer}.
        """
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        if not streaming:
            raise NotImplementedError("only for push producers")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """
        See C{IConsumer.unregisterProducer}.
        """
        self._producer = None

    def full(self) -> None:
        """
        The client does not take what was written.
        """
        if self._producer is not None:
            self._producer.pauseProducing()

    def drained(self) -> None:
        """
        It has taken it.
        """
        if self._producer is not None:
            self._producer.resumeProducing()

    def pauseProducing(self) -> None:
        """
        Read no more.
        """
        if self._reads and not self._native.is_closing():
            self._reads = False
            self._native.pause_reading()

    def resumeProducing(self) -> None:
        """
        Read again.
        """
        if not (self._reads or self._native.is_closing()):
            self._reads = True
            self._native.resume_reading()

    def stopProducing(self) -> None:
        """
        See C{IPushProducer.stopProducing}.
        """
        self.loseConnection()


@implementer(ITCPTransport)
class NativeTCPTransport(NativeTransport):
    """
    One that can be closed in one direction, which TLS cannot.
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
        option = self._socket().getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return bool(option)

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: FBT001 the interface's
        """
        See C{ITCPTransport.setTcpKeepAlive}.
        """
        self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def _socket(self) -> socket.socket:
        found: socket.socket = self._native.get_extra_info("socket")
        return found


class NativeConnection(Connection):
    """
    A connection, as uvloop sees it.
    """

    transport: NativeTransport  # type: ignore[assignment]

    def connection_made(self, native: asyncio.Transport) -> None:
        """
        There is one, or uvloop carries on what was a brief one's.
        """
        kind = NativeTCPTransport if native.can_write_eof() else NativeTransport
        transport = kind(native)
        if not self.connected:
            self.makeConnection(transport)
            return
        brief = cast("BriefTransport", self.transport)
        self.transport = transport
        self.write = transport.write
        transport.registerProducer(self, streaming=True)
        brief.succeed(transport)

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
        self.connectionLost(_DONE if error is None else Failure(ConnectionLost(str(error))))


@implementer(IListeningPort)
class NativePort:
    """
    A port that Twisted has opened and uvloop accepts from.
    """

    def __init__(
        self,
        port: IListeningPort,
        loop: asyncio.AbstractEventLoop,
        site: PexSite,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._port, self._loop, self._site, self._tls = port, loop, site, tls
        self._acceptor: Acceptor | None = None
        self.startListening()

    def startListening(self) -> None:
        """
        See C{IListeningPort.startListening}.
        """
        self._port.stopReading()  # type: ignore[attr-defined]
        listening = socket.socket(fileno=os.dup(self._port.fileno()))  # type: ignore[attr-defined]
        listening.listen(BACKLOG)
        connections, make = self._site.fast_path.connections, self._connection
        self._acceptor = Acceptor(listening, self._loop, connections, make, tls=self._tls)
        self._acceptor.start()

    def _connection(self) -> NativeConnection:
        return self._site.connection(NativeConnection)

    def stopListening(self) -> Deferred[None] | None:
        """
        See C{IListeningPort.stopListening}.
        """
        if self._acceptor is not None:
            self._acceptor.stop()
            self._acceptor = None
        return self._port.stopListening()

    def getHost(self) -> IAddress:
        """
        See C{IListeningPort.getHost}.
        """
        return self._port.getHost()
