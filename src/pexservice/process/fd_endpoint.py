"""
The endpoint C{fd:N}: a listening socket that another process opened and handed down.

Closing the port must leave the socket as it is, for other workers accept from it too.  So
a Unix socket's file, whose permissions Twisted sets and which it removes with its port, is
left alone; the socket works even when somebody has removed its file.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from twisted.internet import fdesc, tcp, unix
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

#: How many connections may wait to be accepted while one worker takes over from
#: another; the kernel's limit, net.core.somaxconn, is 4096 by default.
BACKLOG = 4096


class InheritedUNIXPort(unix.Port):
    """
    A port on a Unix socket that another process opened.
    """

    # Only our descriptor is ours to close; shutting the socket down would end it for
    # everybody.
    _shouldShutdown = False

    def startListening(self) -> None:
        """
        Accept connections, as C{unix.Port} does once it has bound its socket.
        """
        inherited: Any = self._preexistingSocket
        factory: Any = self.factory
        factory.doStart()
        self.socket, self._preexistingSocket = inherited, None
        self.fileno = inherited.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """
        Close the file descriptor, and leave the socket and its file as they are.
        """
        tcp.Port.connectionLost(self, reason)


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """
    The endpoint of a listening socket that this process inherited.

    It can listen, stop and listen again: each port has a copy of the descriptor.

    @ivar descriptor: the file descriptor of the listening stream socket.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        """
        Adopt the socket, without accepting from it.

        This process's own children do not inherit its descriptor.

        @raise OSError: there is no such descriptor, or it is no listening stream socket.
        """
        self.descriptor = descriptor
        self._reactor = reactor
        self._socket = socket.socket(fileno=descriptor)
        fdesc.setNonBlocking(descriptor)
        os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
        if not is_listening(self._socket):
            raise OSError(0, "no listening stream socket")

    def lost_file(self) -> str | None:
        """
        Return the path of a Unix socket's file that is gone or another socket's.

        Clients cannot connect by that path any more.  Return C{None} if all is well.
        """
        name = self._socket.getsockname()
        if self._socket.family != socket.AF_UNIX or not isinstance(name, str) or not name:
            # An abstract address, which is bytes, has no file.
            return None
        return None if Path(name).is_socket() else name

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen on the inherited socket; see C{IStreamServerEndpoint}.
        """
        return maybeDeferred(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        if self._socket.family == socket.AF_UNIX:
            port: Any = InheritedUNIXPort._fromListeningDescriptor(  # noqa: SLF001 the reactor's own way
                self._reactor, self._socket.fileno(), factory
            )
            port.startListening()
        else:
            port = self._reactor.adoptStreamPort(
                self._socket.fileno(), self._socket.family, factory
            )
        # adoptStreamPort has set Twisted's backlog of 50.
        self._socket.listen(BACKLOG)
        listening: IListeningPort = port
        return listening


def is_listening(candidate: socket.socket) -> bool:
    """
    Return whether C{candidate} is a listening stream socket.
    """
    return candidate.type == socket.SOCK_STREAM and bool(
        candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )
