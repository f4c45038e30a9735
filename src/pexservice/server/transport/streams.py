"""
Native streams: connections by their own sockets, and then by uvloop's transports.

Twisted's TCP transports run on uvloop's loop as on any other, and cost half of its speed:
each accept, read and write is Python's then.  So L{pexservice.server.transport.listener}
accepts from a port that Twisted has opened, and each connection has a L{NativeTransport},
with Twisted's interfaces, in two states (a connection with TLS has only the second):

  - at first it is the accepted socket.  A client that opens a connection for each request
    would pay, with every request, for a transport of uvloop's: made, watched, read once,
    written once, closed in the turn after.  So the input is looked at without taking it.
    A request that the plan cache knows as its connection's last is answered through the
    socket itself, in as few system calls as there can be;
  - everything else is handed over to uvloop, with nothing read, and the transport then
    stands between Twisted's interfaces and uvloop's transport.

The protocol above it is the same L{Connection<pexservice.server.connection.Connection>} all
the time, and on every other reactor.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.server.connection import Connection

_log = Logger()

#: How much input is looked at.  Longer input is no single request, or is left to uvloop.
#: Bytes.
LARGEST_CHUNK = 2048
_ONE_MORE = LARGEST_CHUNK + 1

_DONE = Failure(ConnectionDone())


def address_of(name: object) -> IAddress:
    """
    Return C{name}, by which a socket calls one end of it, as one of Twisted's addresses.
    """
    if isinstance(name, tuple):
        kind = IPv6Address if len(name) > len(("host", "port")) else IPv4Address
        return kind("TCP", *name)
    return UNIXAddress(cast(bytes, name) or None)


def reason_of(error: BaseException | None) -> Failure:
    """
    Return the reason why a connection is over, in the form for Twisted's protocols.
    """
    return _DONE if error is None else Failure(ConnectionLost(str(error)))


@implementer(ITransport, IConsumer, IPushProducer)
class NativeTransport:
    """
    The transport of a connection, before it is handed over to uvloop and after.

    @ivar disconnecting: whether the connection is being closed.
    """

    __slots__ = (
        "_abort",
        "_carried",
        "_connection",
        "_loop",
        "_native",
        "_pass_on",
        "_passing",
        "_producer",
        "_reads",
        "_request",
        "_socket",
        "_unsent",
        "_waits",
        "disconnecting",
    )

    _native: asyncio.Transport

    def __init__(self) -> None:
        self._carried = False
        self._producer: IPushProducer | None = None
        self._reads = True
        self.disconnecting = False

    # Before the hand-over.

    def begin(
        self,
        accepted: socket.socket,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        pass_on: Callable[[socket.socket, Any], object],
    ) -> None:
        """
        Look at the first input on a socket that was accepted, in the next turn.

        @param pass_on: has uvloop carry the connection, in a later turn.
        """
        self._socket = accepted
        self._loop = loop
        self._connection = connection
        self._pass_on = pass_on
        # Whether the loop tells when input comes.
        self._waits = False
        # The request being answered, which has not been taken from the socket yet.
        self._request = b""
        self._unsent = b""
        self._passing = False
        self._abort = False
        # A client mostly sends as soon as it is connected, so its request is here by the
        # next turn.
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
        Answer the request that has come, or have uvloop carry the connection.
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
            # uvloop will meet this error too.
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

    def _send(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The client is gone, and the connection is closed as after any last answer.
            return
        if sent < len(data):
            # The client has to take some of the answer first, and uvloop can wait for that.
            self._unsent = data[sent:]
            with suppress(OSError):
                self._socket.recv(len(self._request), socket.MSG_DONTWAIT)
            self._go()

    def _close(self) -> None:
        self._wait_no_more()
        with suppress(OSError):
            # Input that is not taken would make the kernel reset the connection, answer
            # and all; also input behind the request, where none should be.
            self._socket.recv(LARGEST_CHUNK, socket.MSG_DONTWAIT)
        self._socket.close()
        self._connection.connectionLost(_DONE)

    # The hand-over.

    def carry(self, native: asyncio.Transport) -> None:
        """
        Have C{native} carry the connection from now on.
        """
        self._native = native
        self._carried = True

    def finish(self) -> None:
        """
        Write and close, by uvloop's transport, as was asked for while it was not there.
        """
        if self._abort:
            self.abortConnection()
            return
        if self._unsent:
            self.write(self._unsent)
        if self.disconnecting:
            self.loseConnection()

    # The methods that Twisted calls, in both states.

    def write(self, data: bytes) -> None:
        """
        Send C{data}, by the socket or by uvloop's transport.
        """
        if self._carried:
            self._native.write(data)
        else:
            self._send(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """
        Send C{data} as one piece.
        """
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """
        Close the connection when everything written was sent.
        """
        closing, self.disconnecting = self.disconnecting, True
        if self._carried:
            self._native.close()
        elif not (closing or self._passing):
            self._close()

    def abortConnection(self) -> None:
        """
        Close the connection at once, whatever was not sent.
        """
        if self._carried:
            self.disconnecting = True
            self._native.abort()
        else:
            self._abort = True
            self.loseConnection()

    def getPeer(self) -> Any:
        """
        Return the address of the client's end.
        """
        if self._carried:
            return address_of(self._native.get_extra_info("peername"))
        return address_of(self._socket.getpeername())

    def getHost(self) -> Any:
        """
        Return the address of the end here.
        """
        if self._carried:
            return address_of(self._native.get_extra_info("sockname"))
        return address_of(self._socket.getsockname())

    def getHandle(self) -> socket.socket | None:
        """
        Return the socket, as Twisted's own transports do.
        """
        found: socket.socket | None
        found = self._native.get_extra_info("socket") if self._carried else self._socket
        return found

    # Backpressure: the client's, as IConsumer, and ours, as IPushProducer.  Before the
    # hand-over there is none: a client that takes no answer is left to uvloop.

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: FBT001 the interface's
        """
        Have C{producer} told when the client does not take written bytes, and when it does.
        """
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        if not streaming:
            raise NotImplementedError("only for push producers")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """
        Tell the producer nothing any more.
        """
        self._producer = None

    def full(self) -> None:
        """
        Pause the producer: the client does not take what was written.
        """
        if self._producer is not None:
            self._producer.pauseProducing()

    def drained(self) -> None:
        """
        Resume the producer: the client has taken what was written.
        """
        if self._producer is not None:
            self._producer.resumeProducing()

    def pauseProducing(self) -> None:
        """
        Read no more from the client.
        """
        if self._reads and not self._native.is_closing():
            self._reads = False
            self._native.pause_reading()

    def resumeProducing(self) -> None:
        """
        Read again from the client.
        """
        if not (self._reads or self._native.is_closing()):
            self._reads = True
            self._native.resume_reading()

    def stopProducing(self) -> None:
        """
        Close the connection.
        """
        self.loseConnection()
