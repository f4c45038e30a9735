"""
Brief connections: those that end with the answer to their first request.

A client that opens a connection for each request pays, with every request, for a
transport of uvloop's: made, watched, read once, written once, closed in the turn
after.  A request that the plan cache knows needs none of it.  So a new connection has a
transport that looks at what has come without taking it.  What the plan cache knows as a
connection's last request is answered through the socket itself, in as few system
calls as there can be; everything else is passed on to uvloop, with nothing read.

The protocol above is the same L{Connection<pexservice.server.connection.Connection>}
all the time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

if TYPE_CHECKING:
    from pexservice.server.transport.streams import NativeConnection, NativeTransport

_log = Logger()

#: How much is looked at.  What is longer is no single request, or uvloop's.  Bytes.
LARGEST_CHUNK = 2048
_ONE_MORE = LARGEST_CHUNK + 1


def address_of(name: object) -> IAddress:
    """
    Return what a socket calls one end of it, as Twisted has it.
    """
    if isinstance(name, tuple):
        kind = IPv6Address if len(name) > len(("host", "port")) else IPv4Address
        return kind("TCP", *name)
    return UNIXAddress(cast(bytes, name) or None)


class BriefTransport:
    """
    The transport of a connection until it is answered or passed on: as much of
    C{ITransport} as a connection without a
    channel calls.

    @ivar disconnecting: it is being closed.
    """

    __slots__ = (
        "_abort",
        "_broken",
        "_connection",
        "_loop",
        "_pass_on",
        "_passing",
        "_request",
        "_socket",
        "_unsent",
        "_waits",
        "disconnecting",
    )

    def __init__(
        self,
        accepted: socket.socket,
        loop: asyncio.AbstractEventLoop,
        connection: NativeConnection,
        pass_on: Callable[[socket.socket, NativeConnection], object],
    ) -> None:
        """
        @param pass_on: have uvloop carry the connection, in a later turn.
        """
        self._socket = accepted
        self._loop = loop
        self._connection = connection
        self._pass_on = pass_on
        # The loop tells when something comes.
        self._waits = False
        # What is being answered; it has not been taken from the socket yet.
        self._request = b""
        self._unsent = b""
        self._broken: OSError | None = None
        self._passing = False
        self._abort = False
        self.disconnecting = False
        # Who connects sends at once, so by the next turn it is mostly here.
        loop.call_soon(self._look)

    def _readable(self) -> None:
        self._wait_no_more()
        self._look()

    def _wait_no_more(self) -> None:
        if self._waits:
            self._waits = False
            self._loop.remove_reader(self._socket.fileno())

    def _look(self) -> None:
        """
        Answer what has come, or have uvloop carry the connection.
        """
        if self.disconnecting:
            return
        try:
            self._take()
        except Exception:  # noqa: BLE001 it is logged
            # uvloop closes a connection whose protocol raises; so does this.
            _log.failure("a connection failed")
            self.abortConnection()

    def _take(self) -> None:
        try:
            chunk = self._socket.recv(_ONE_MORE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._waits = True
            self._loop.add_reader(self._socket.fileno(), self._readable)
            return
        except OSError:
            # uvloop will meet it too.
            chunk = b""
        connection = self._connection
        cache = connection.fast_path.cache
        request = cache.exact.get(chunk) or cache.recognize(chunk, connection)
        if request is not None and request.plan.framing.last:
            self._request = chunk
            connection.perform(request)
        else:
            self._go()

    def _go(self) -> None:
        self._passing = True
        self._pass_on(self._socket, self._connection)

    def succeed(self, transport: NativeTransport) -> None:
        """
        C{transport} carries the connection from now on.
        """
        if self._abort:
            transport.abortConnection()
            return
        if self._unsent:
            transport.write(self._unsent)
        if self.disconnecting:
            transport.loseConnection()

    def write(self, data: bytes) -> None:
        """
        Send the answer.
        """
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken = error
            return
        if sent < len(data):
            # The client has to take some of it first, and uvloop can wait for that.
            self._unsent = data[sent:]
            with suppress(OSError):
                self._socket.recv(len(self._request), socket.MSG_DONTWAIT)
            self._go()

    def getPeer(self) -> IAddress:
        """
        See C{ITransport.getPeer}.
        """
        return address_of(self._socket.getpeername())

    def getHost(self) -> IAddress:
        """
        See C{ITransport.getHost}.
        """
        return address_of(self._socket.getsockname())

    def loseConnection(self) -> None:
        """
        Close it when all was sent.
        """
        if not self.disconnecting:
            self.disconnecting = True
            if not self._passing:
                self._close()

    def abortConnection(self) -> None:
        """
        Close it, whatever is not sent yet.
        """
        self._abort = True
        self.loseConnection()

    def _close(self) -> None:
        self._wait_no_more()
        with suppress(OSError):
            # What is not taken would make the kernel reset the connection, answer and
            # all; also what came behind the request, and should not have.
            self._socket.recv(LARGEST_CHUNK, socket.MSG_DONTWAIT)
        self._socket.close()
        self._connection.connection_lost(self._broken)

    # A client that takes no answer is uvloop's.

    def registerProducer(self, producer: object, streaming: bool) -> None:  # noqa: FBT001 the interface's
        """
        There is no backpressure here.
        """

    def unregisterProducer(self) -> None:
        """
        As L{registerProducer}.
        """
