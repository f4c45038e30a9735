"""
systemd's notify protocol: messages of a process to the process that started it.

A message is a few C{NAME=VALUE} lines.  They go to the socket that C{NOTIFY_SOCKET}
names, or, from a worker to our own supervisor, through a pipe that only that worker has.
The messages are the same, so a worker need not know which of the two started it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

from twisted.logger import Logger

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"
RELOADING = "RELOADING=1"
STANDBY = "STATUS=standing by"
#: To our own supervisor: this worker can neither be active nor stand by; its status says
#: why.
NOT_READY = "READY=0"

#: A longer line is cut.  Three such lines are less than PIPE_BUF, up to which the kernel
#: writes a message into a pipe whole or not at all.
MAX_MESSAGE_LINE_BYTES = 1000


class Notifier:
    """
    Sends messages to the process that started this one; without C{send} it does nothing.

    It keeps its file descriptor open.  If it opened one for each message, a process without
    a free descriptor would look silent.

    @ivar watchdog: seconds of silence after which the receiver acts, or C{None} if it
        does not wait for heartbeats.
    """

    _log = Logger()

    def __init__(
        self,
        send: Callable[[bytes], object] | None = None,
        watchdog: float | None = None,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        """
        @param send: sends one message without waiting, or raises C{OSError}.
        """
        self._send = send
        self._close = close
        self._failing = False
        self.watchdog = watchdog

    @classmethod
    def to_service_manager(cls, environment: Mapping[str, str]) -> Self:
        """
        Return the notifier that sends to the socket that C{NOTIFY_SOCKET} names.

        @param environment: the environment of this process; without C{NOTIFY_SOCKET}
            nothing is sent.
        """
        name = environment.get("NOTIFY_SOCKET", "")
        if not name:
            return cls()
        # A leading @ stands for the abstract namespace's null.
        address = "\0" + name[1:] if name.startswith("@") else name
        sending = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        return cls(
            lambda message: sending.sendto(message, address),
            _watchdog(environment),
            sending.close,
        )

    @classmethod
    def to_supervisor(cls, descriptor: int, environment: Mapping[str, str]) -> Self:
        """
        Return the notifier that writes to a pipe.

        @param descriptor: the pipe's writing end; this process's own children do not
            inherit it.
        @raise OSError: C{descriptor} is not open.
        """
        os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
        os.set_blocking(descriptor, False)
        return cls(partial(os.write, descriptor), _watchdog(environment))

    def notify(self, *lines: str) -> None:
        """
        Send one message, or drop it if the receiver cannot take it now.
        """
        if self._send is None:
            return
        try:
            self._send(b"".join(map(_encoded, lines)))
        except OSError as error:
            # Logged once: the error may last as long as the receiver is stopped.
            if not self._failing:
                self._log.warn("a notification was not sent: {error}", error=error)
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        self._send = None
        self._close()


def _encoded(line: str) -> bytes:
    # A reason may contain the name of a file, and the name a newline.
    return " ".join(line.splitlines()).encode()[:MAX_MESSAGE_LINE_BYTES] + b"\n"


def _watchdog(environment: Mapping[str, str]) -> float | None:
    own = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if own and microseconds.isdecimal() else None
