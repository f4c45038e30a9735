"""
systemd's notify protocol, both ends of it.

A process tells whoever started it that it is ready, alive, or what it is doing, in
datagrams of C{NAME=VALUE} lines to the socket that C{NOTIFY_SOCKET} names.  Because
the supervisor speaks it downwards as systemd does, a worker runs the same under
either.  The sender of a datagram is known from the kernel, not from what it says.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger()

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"
STANDING_BY = "STATUS=standing by"

#: struct ucred: pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")

_LONGEST = 4096


class Notifier:
    """
    Tells whoever started this process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """
        @param environment: with C{NOTIFY_SOCKET}, or nobody is told; and with
            C{WATCHDOG_USEC}, if whoever started the process wants to know whether
            it is alive.
        """
        name = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace's null.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        own = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        #: Seconds of silence that are too long, or L{None} if nobody listens.
        self.watchdog = (
            int(microseconds) / 1e6 if own and name and microseconds.isdecimal() else None
        )

    def tell(self, *lines: str) -> None:
        """
        Send one datagram.  Who does not take it is not waited for.
        """
        if not self._address:
            return
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as sending:
            try:
                sending.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                _log.warn("cannot notify {name}: {error}", name=self._address, error=error)


@implementer(IReadDescriptor)
class Listener:
    """
    The other end, for a supervisor.

    @ivar name: the value for C{NOTIFY_SOCKET}.
    """

    def __init__(
        self, reactor: IReactorFDSet, heard: Callable[[int, list[str]], None]
    ) -> None:
        """
        @param heard: called with the sender's process id and the lines it sent.
        """
        self._reactor = reactor
        self._heard = heard
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # The kernel chooses a free name in the abstract namespace: no file is left.
        self._socket.bind("")
        self.name = "@" + self._socket.getsockname()[1:].decode()

    def start(self) -> None:
        """
        Listen.
        """
        self._reactor.addReader(self)

    def stop(self) -> None:
        """
        Listen no more.
        """
        self._reactor.removeReader(self)
        self._socket.close()

    def fileno(self) -> int:
        """
        See L{IReadDescriptor.fileno}.
        """
        return self._socket.fileno()

    def doRead(self) -> None:
        """
        See L{IReadDescriptor.doRead}.
        """
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    _LONGEST, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid, _, _ = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])
                    self._heard(pid, data.decode(errors="replace").splitlines())

    def connectionLost(self, reason: Failure) -> None:
        """
        See L{IReadDescriptor.connectionLost}.
        """

    def logPrefix(self) -> str:
        """
        See L{IReadDescriptor.logPrefix}.
        """
        return "notify"
