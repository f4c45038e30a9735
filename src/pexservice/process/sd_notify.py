"""
systemd's notify protocol: messages of a process to the process that started it.

A message is a few lines of the form C{NAME=VALUE}.  A process sends it to the socket that
the environment variable C{NOTIFY_SOCKET} names.  A worker of a supervisor writes it into
its own pipe instead.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Self

from attrs import define, field
from twisted.logger import Logger

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"
RELOADING = "RELOADING=1"
#: The name of a line that says within how many microseconds the next message arrives.
EXTEND_TIMEOUT = "EXTEND_TIMEOUT_USEC"
#: The worker waits for the store's lock.  The line is no status text, although it looks
#: like one: a supervisor of version 1.0.0 expects this form.
STANDBY = "STATUS=standing by"
#: The worker can neither be active nor stand by, and its status text says why.  Only our
#: supervisor knows this line.
NOT_READY = "READY=0"

#: A longer line is cut, and only STATUS can be so long.  So a message is shorter than
#: PIPE_BUF, and the kernel writes it into a pipe as a whole or not at all.
MAX_MESSAGE_LINE_BYTES = 1000


@define(eq=False)
class Notifier:
    """
    Sends messages to the process that started this one; without C{send} it sends nothing.

    A notifier keeps its file descriptor.  If each message needed a new descriptor, a
    process without a free descriptor would look silent.

    @ivar watchdog: after this many seconds without a heartbeat, the receiver ends this
        process; C{None} if it expects no heartbeats.
    """

    _log = Logger()

    # Sends one message without waiting, or raises OSError.
    _send: Callable[[bytes], object] | None = None
    watchdog: float | None = None
    _close: Callable[[], object] = lambda: None
    # The lines that the receiver could not take, by their names.
    _unsent: dict[str, str] = field(init=False, factory=dict)
    _repeated_lines: tuple[str, ...] = field(init=False, default=())

    @classmethod
    def to_service_manager(cls) -> Self:
        """
        Return the notifier that sends to the socket that C{NOTIFY_SOCKET} names, if any.
        """
        name = os.environ.get("NOTIFY_SOCKET", "")
        if not name:
            return cls()
        # An @ at the beginning stands for the null byte of an abstract socket's name.
        address = "\0" + name[1:] if name.startswith("@") else name
        sending = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        return cls(
            lambda message: sending.sendto(message, address),
            _watchdog(),
            sending.close,
        )

    @classmethod
    def to_supervisor(cls, descriptor: int) -> Self:
        """
        Return the notifier that writes to the pipe from this worker to its supervisor.

        @param descriptor: the writing end of the pipe.  Children of this process do not
            inherit it.
        @raise OSError: C{descriptor} is not open.
        """
        os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
        os.set_blocking(descriptor, False)
        return cls(partial(os.write, descriptor), _watchdog())

    def notify(self, *lines: str) -> None:
        """
        Send one message.

        If the receiver cannot take it now, the next message has its lines too, except those
        with a name that the next message has itself.
        """
        if self._send is None:
            return
        message = {line.partition("=")[0]: line for line in lines}
        # The order matters: RELOADING and READY undo each other.
        unsent = {name: line for name, line in self._unsent.items() if name not in message}
        message = {**unsent, **message}
        try:
            self._send(b"".join(map(_encoded, message.values())))
        except OSError as error:
            # The error is logged once, because it may last while the receiver is stopped.
            if not self._unsent:
                self._log.warn("cannot send a message yet: {error}; retrying", error=error)
            self._unsent = message
        else:
            self._unsent.clear()

    def notify_repeatedly(self, *lines: str) -> None:
        """
        Send a message now, and its C{lines} again with each heartbeat.
        """
        self._repeated_lines = lines
        self.notify(*lines)

    def send_heartbeat(self) -> None:
        self.notify(ALIVE, *self._repeated_lines)

    def close(self) -> None:
        self._send = None
        self._close()


def _encoded(line: str) -> bytes:
    # A line may have the name of a file, with a newline or with bytes that are not UTF-8.
    text = " ".join(line.splitlines()).encode(errors="backslashreplace")
    return text[:MAX_MESSAGE_LINE_BYTES] + b"\n"


def _watchdog() -> float | None:
    own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if own and microseconds.isdecimal() else None
