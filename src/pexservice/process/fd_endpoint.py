"""
The endpoint C{fd:N}: a listening socket that another process opened and handed down.

Closing the port must leave the socket as it is, for the next worker accepts from it too.
So a Unix socket's file, which Twisted removes with its port, stays.
"""

from __future__ import annotations

import os
import socket
import stat
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

    def connectionLost(self, reason: Failure) -> None:
        """
        Close the file descriptor, and leave the socket and its file as they are.
        """
        tcp.Port.connectionLost(self, reason)


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """
    The endpoint of a listening socket that this process inherited.

    @ivar descriptor: the file descriptor of a listening stream socket.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self.descriptor = descriptor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen on the inherited socket; see C{IStreamServerEndpoint}.
        """
        return maybeDeferred(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        with socket.socket(fileno=os.dup(self.descriptor)) as inherited:
            fdesc.setNonBlocking(self.descriptor)
            if inherited.family == socket.AF_UNIX:
                port: Any = InheritedUNIXPort._fromListeningDescriptor(  # noqa: SLF001 the reactor's own way
                    self._reactor, self.descriptor, factory
                )
                # Listening sets the file's permissions, so give it those that the file
                # has.
                port.mode = stat.S_IMODE(Path(inherited.getsockname()).stat().st_mode)
                port.startListening()
            else:
                port = self._reactor.adoptStreamPort(
                    self.descriptor, inherited.family, factory
                )
            # Listening has also set Twisted's backlog of 50.
            inherited.listen(BACKLOG)
        # The port has its own copy of the descriptor.
        os.close(self.descriptor)
        listening: IListeningPort = port
        return listening
