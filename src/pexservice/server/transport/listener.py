"""
The listening port of uvloop's reactor, which accepts many connections in one turn.

uvloop's own servers accept one connection in a turn of its loop, and make a transport of
each at once.  A client that opens a connection for each request would pay for that every
time, so connections are accepted here, and are handed over to uvloop by their
L{transport<pexservice.server.transport.streams.NativeTransport>} when they are for more
than one answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.process.fd_endpoint import BACKLOG
from pexservice.server.interfaces import Phase
from pexservice.server.limits import Admission
from pexservice.server.site import PexSite
from pexservice.server.transport.native_connection import (
    NativeConnection,
    NativeTCPTransport,
)

#: How many connections one turn takes at most, so that those that are open get
#: their turns too.
MOST_AT_ONCE = 16

#: How long a client may take to agree on TLS, and to agree on its end.  Seconds.
HANDSHAKE_TIMEOUT = 10
SHUTDOWN_TIMEOUT = 2

#: How long new clients wait when there are no file descriptors or no memory for them.
#: Seconds.
PAUSE = 0.1


@implementer(IListeningPort)
class NativePort:
    """
    A port that Twisted has opened and uvloop accepts from.
    """

    _log = Logger()

    def __init__(
        self,
        port: IListeningPort,
        loop: asyncio.AbstractEventLoop,
        site: PexSite,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Accept the connections of C{port} in the place of Twisted.

        @param tls: the context with which connections agree on TLS before anything else, if
            at all.
        """
        self._port = port
        self._loop = loop
        self._site = site
        self._connections = site.fast_path.connections
        self._tls: dict[str, Any] = {}
        if tls is not None:
            self._tls = {
                "ssl": tls,
                "ssl_handshake_timeout": HANDSHAKE_TIMEOUT,
                "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
            }
        # Whether there was nothing to accept a connection with since the last one.
        self._short = False
        self._pause: asyncio.TimerHandle | None = None
        self._passing: set[asyncio.Task[Any]] = set()
        port.stopReading()  # type: ignore[attr-defined]
        self._listening = socket.socket(fileno=os.dup(port.fileno()))  # type: ignore[attr-defined]
        self._listening.listen(BACKLOG)
        self.startListening()

    def startListening(self) -> None:
        """
        Accept connections from now on; see C{IListeningPort}.
        """
        self._pause = None
        self._loop.add_reader(self._listening, self._accept)

    def stopListening(self) -> Deferred[None] | None:
        """
        Accept no more connections, and close the port; see C{IListeningPort}.
        """
        if self._pause is None:
            self._loop.remove_reader(self._listening)
        else:
            self._pause.cancel()
        self._listening.close()
        return self._port.stopListening()

    def getHost(self) -> IAddress:
        """
        Return the address of the port.
        """
        return self._port.getHost()

    def _accept(self) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                accepted, address = self._listening.accept()
            except BlockingIOError:
                break
            except (ConnectionAbortedError, PermissionError):
                # The connection is gone already, or a firewall keeps it out.
                continue
            except OSError as error:
                if not self._short:
                    self._log.error("new connections have to wait: {error}", error=error)
                self._short = True
                # So another file descriptor is free in the next turn.
                self._connections.displace()
                # Connections that are not accepted keep the socket readable.
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(PAUSE, self.startListening)
                break
            self._short = False
            self._take(accepted, address)
        # A client that has connected may wait for this very processor to send.
        os.sched_yield()

    def _take(self, accepted: socket.socket, address: Any) -> None:
        connection = self._site.connection(NativeConnection)
        # The address of a Unix socket is a string.
        admission = connection.admit(address[0] if isinstance(address, tuple) else None)
        refused = admission is not Admission.TAKEN
        if admission is Admission.DROPPED or (refused and self._tls):
            # Before TLS is agreed on there is no way to answer.
            self._connections.leave(connection)
            accepted.close()
        elif refused:
            # Sending the 503 takes a transport that can do everything.
            self._pass_on(accepted, connection)
        elif self._tls:
            connection.phase = Phase.RECEIVING
            connection.receiving_since = self._connections.seconds()
            connection.transport = _Handshake(  # type: ignore[assignment]
                self._pass_on(accepted, connection)
            )
        else:
            transport = NativeTCPTransport()
            transport.begin(accepted, self._loop, connection, self._pass_on)
            connection.makeConnection(transport)

    def _pass_on(
        self, accepted: socket.socket, connection: NativeConnection
    ) -> asyncio.Task[Any]:
        """
        Have uvloop carry C{connection} from now on.
        """
        passing = self._loop.create_task(
            self._loop.connect_accepted_socket(
                lambda: connection,  # type: ignore[type-var]
                accepted,
                **self._tls,
            )
        )
        self._passing.add(passing)

        def passed(_: asyncio.Task[Any]) -> None:
            self._passing.discard(passing)
            error: BaseException | None = asyncio.CancelledError()
            if not passing.cancelled():
                error = passing.exception()
            if error is None:
                return
            if not isinstance(error, (OSError, asyncio.CancelledError)):
                self._log.failure("a connection failed", failure=Failure(error))
            accepted.close()
            if connection.phase is not Phase.CLOSED:
                connection.connection_lost(error)

        passing.add_done_callback(passed)
        return passing


class _Handshake:
    """
    The transport of a connection that has not agreed on TLS yet.
    """

    def __init__(self, passing: asyncio.Task[Any]) -> None:
        self._passing = passing

    def abortConnection(self) -> None:
        """
        Close the connection at once.
        """
        self._passing.cancel()
