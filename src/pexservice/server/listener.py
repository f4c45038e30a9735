"""
The listener, which accepts the connections of a port that Twisted has opened.

A server of asyncio would accept one connection in each iteration of the event loop, and
would make a transport for each connection.  This listener accepts up to 64 connections in
an iteration.  Many connections end after one request, and need no transport of the event
loop: a L{OneRequestTransport} carries the request and its response.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger
from zope.interface import implementer

from pexservice.process.listening import BACKLOG
from pexservice.server.connection import Connection
from pexservice.server.limits import Phase
from pexservice.server.server import Server
from pexservice.server.tls_transport import TlsTransport

_log = Logger()

#: How many connections are accepted in one iteration.  The open connections wait meanwhile.
MAX_ACCEPTED_PER_ITERATION = 64

#: How long to wait after C{accept} has failed, for example for lack of file descriptors.
RETRY_DELAY_SECONDS = 0.1

#: Errors of C{accept} that concern one connection only, and not the port: the connection is
#: gone, its network has failed, or a firewall blocks it.  See accept(2).
_CONNECTION_ERRORS = frozenset(
    (
        *(errno.ECONNABORTED, errno.EPERM, errno.EACCES, errno.EPROTO, errno.ENOPROTOOPT),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ENONET, errno.EOPNOTSUPP),
    )
)

#: How many bytes L{OneRequestTransport} reads.  A longer request gets another transport.
MAX_FIRST_INPUT_BYTES = 2048


@implementer(IListeningPort)
class Listener:
    """
    Accepts the connections of a port that Twisted has opened.
    """

    def __init__(
        self,
        port: IListeningPort,
        loop: asyncio.AbstractEventLoop,
        server: Server,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Accept the connections of C{port}, so that Twisted does not accept them.

        @param tls: the context of the TLS handshakes; C{None} for connections without TLS.
        """
        self._port = port
        self._loop = loop
        self._server = server
        self._connections = server.connections
        self._tls = tls
        # True while accept() fails, so that the failure is logged once.
        self._accept_failing = False
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        port.stopReading()  # type: ignore[attr-defined]
        self._socket = socket.socket(fileno=os.dup(port.fileno()))  # type: ignore[attr-defined]
        self._socket.listen(BACKLOG)
        self._is_unix = self._socket.family == socket.AF_UNIX
        # The local address of all connections.  It is "" if the port listens on every
        # address, because the connections may then have different local addresses.
        self._local_address = "" if self._is_unix else self._socket.getsockname()[0]
        if self._local_address in ("0.0.0.0", "::"):  # noqa: S104 compared, not bound
            self._local_address = ""
        self.startListening()

    def startListening(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket, self._accept)

    def stopListening(self) -> Deferred[None] | None:
        if self._retry is None:
            self._loop.remove_reader(self._socket)
        else:
            self._retry.cancel()
        self._socket.close()
        return self._port.stopListening()

    def getHost(self) -> IAddress:
        return self._port.getHost()

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED_PER_ITERATION):
            try:
                sock, peer_name = self._socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _CONNECTION_ERRORS:
                    continue
                if not self._accept_failing:
                    _log.error("cannot accept connections: {error}; retrying", error=error)
                self._accept_failing = True
                # This frees a file descriptor in the next iteration.
                self._connections.displace()
                # Without this pause, the event loop would call this method in every
                # iteration.
                self._loop.remove_reader(self._socket)
                self._retry = self._loop.call_later(
                    RETRY_DELAY_SECONDS, self.startListening
                )
                break
            self._accept_failing = False
            self._begin(sock, peer_name)
        # A client on this machine may need this CPU to send its request.
        os.sched_yield()

    def _begin(self, sock: socket.socket, peer_name: Any) -> None:
        address = None if self._is_unix else peer_name[0]
        local_address = self._local_address
        if not (local_address or self._is_unix):
            local_address = sock.getsockname()[0]
        clients = self._server.checker.clients
        # The address is stored, because a socket loses it when the client resets the
        # connection.
        peer = clients.peer(address, local_address)
        connection, client = Connection(self._server, peer), clients.client_of(peer)
        if not self._connections.admit(connection, client):
            # A connection with TLS gets no 503, because a response needs a handshake first.
            if self._tls or not self._connections.add_refused(connection):
                sock.close()
                return
            connection.phase = Phase.REFUSED
            self._make_transport(sock, connection, connection)
        elif self._tls:
            connection.phase = Phase.HANDSHAKE
            connection.receiving_since = self._connections.seconds()
            transport = TlsTransport(self._server, self._tls, connection, client)
            connection.transport = transport  # type: ignore[assignment]
            self._make_transport(sock, connection, transport)
        else:
            OneRequestTransport(sock, self._loop, connection, self._make_transport)

    def _make_transport(
        self, sock: socket.socket, connection: Connection, protocol: asyncio.Protocol
    ) -> None:
        """
        Let the event loop make a transport for C{sock}, in a later iteration.

        @param protocol: the protocol of the transport: C{connection} itself, its
            L{TlsTransport}, or the L{OneRequestTransport} that the transport replaces.
        """
        task = self._loop.create_task(self._connect(sock, connection, protocol))
        # The event loop itself keeps only a weak reference to a task.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(
        self, sock: socket.socket, connection: Connection, protocol: asyncio.Protocol
    ) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 a bug is logged
            if not isinstance(error, (OSError, asyncio.CancelledError)):
                _log.failure("a connection failed")
            sock.close()
            if connection.phase is not Phase.CLOSED:
                connection.connection_lost(error)


class OneRequestTransport(asyncio.Protocol):
    """
    The first transport of a connection, which carries a single request.

    A client such as C{ab} opens a connection for each request.  For such a client, a
    transport of the event loop would cost as much as the request itself.  So this class
    reads the first input directly from the socket.  If the input is a recognized request
    after which the connection is closed, this class also sends the response and closes the
    socket.  Otherwise, the event loop makes a transport, which replaces this one.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        make_transport: Callable[[socket.socket, Connection, asyncio.Protocol], object],
    ) -> None:
        self._socket = sock
        self._loop = loop
        self._connection = connection
        self._make_transport = make_transport
        # Whether the event loop watches the socket for input.
        self._watches = False
        # Whether a transport of the event loop will replace this one.
        self._transport_requested = False
        # True after perform() has returned.  The request may still wait for its commit.
        self._has_request = False
        self._closing = self._aborted = False
        self._received = self._unsent = b""
        connection.connection_made(self)  # type: ignore[arg-type]
        # Most clients send their request at once, so it has arrived by the next iteration.
        loop.call_soon(self._read)

    def _read(self) -> None:
        self._stop_watching()
        if self._closing:
            return
        try:
            self._received = self._socket.recv(MAX_FIRST_INPUT_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._watches = True
            self._loop.add_reader(self._socket.fileno(), self._read)
            return
        except OSError:
            # The client has reset the connection.
            self.abort()
            return
        try:
            self._handle(self._received)
        except Exception:  # noqa: BLE001 it is logged, and the connection ends
            _log.failure("a connection failed")
            self.abort()

    def _handle(self, data: bytes) -> None:
        connection = self._connection
        if not data:
            self.abort()
            return
        request = connection.recognizer.find(data)
        if request is None or not request.response_format.closes_connection:
            self._request_transport()
            return
        self._received = b""
        connection.perform(request)
        self._has_request = True

    def _request_transport(self) -> None:
        self._transport_requested = True
        self._make_transport(self._socket, self._connection, self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """
        Replace this transport by C{transport}.

        If this transport was aborted, C{transport} is aborted.  Otherwise, C{transport}
        sends the unsent data.  Then C{transport} is closed if this transport was closed; if
        not, the connection gets the input that was read.
        """
        transport.set_protocol(self._connection)
        self._connection.connection_made(transport)
        if self._aborted:
            transport.abort()
            return
        if self._unsent:
            transport.write(self._unsent)
        if self._closing:
            transport.close()
        elif self._received:
            self._connection.data_received(self._received)

    def _stop_watching(self) -> None:
        if self._watches:
            self._watches = False
            self._loop.remove_reader(self._socket.fileno())

    # The methods of a transport, as far as a connection calls them.

    def write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The client is gone.  The connection closes this transport after the response.
            return
        if sent < len(data):
            # The client does not take the rest yet.  The event loop sends the rest later.
            self._unsent = data[sent:]
            self._request_transport()

    def close(self) -> None:
        closing, self._closing = self._closing, True
        if closing or self._transport_requested:
            return
        self._stop_watching()
        if self._has_request:
            with suppress(OSError):
                # The client may have sent more meanwhile.  To close a socket with unread
                # input would reset the connection, and the client might lose the response.
                self._socket.recv(MAX_FIRST_INPUT_BYTES, socket.MSG_DONTWAIT)
        self._socket.close()
        self._connection.connection_lost(None)

    def abort(self) -> None:
        self._aborted = True
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return False

    # This transport reads only once, so there is no reading to pause or resume.

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> object:
        return self._socket if name == "socket" else None
