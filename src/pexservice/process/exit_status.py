"""
The end of a process that cannot continue: one line that says why, and an exit status.

C{sys.exit} in a callback of the reactor does not end the process, and
C{reactor.stop()} ends it with status 0.  So the status is set at the very end, when
twistd has stopped its services and removed its pid file.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

from pexservice.process.log_lines import error_line, is_journal


class Status(IntEnum):
    """
    The exit statuses, a protocol with the program that started the process.

    The values are those of C{sysexits.h} where it has one that fits.
    """

    #: The process could not start; another try may succeed.
    CANNOT_START = 1
    #: EX_USAGE: an option, or a file that an option names, is wrong; a restart does not
    #: help.
    MISCONFIGURED = 64
    #: EX_SOFTWARE: a bug ended the process; the log has the traceback.
    BUG = 70
    #: EX_IOERR: the store failed while the process ran; the next process reads it again.
    STORE_FAILED = 74
    #: EX_CONFIG: the store is damaged; a restart does not help.
    DAMAGED = 78


#: These signals may end a process that reads the memory map of a damaged store: SIGBUS if a
#: page is missing from the file, the others if a page has wrong content.
SIGNALS_OF_DAMAGE = frozenset(
    (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
)


class CannotStart(Exception):
    """
    The process cannot start; the message is one line that says why.

    If a daemon cannot start, twistd ends with status 1 and shows the class's name and the
    message on the terminal, a hundred bytes in all.

    @cvar exit_status: the status that the process ends with in the foreground.
    """

    # twistd shows the name of the module too, and the full name would leave less space.
    __module__ = "pexservice"
    exit_status = Status.CANNOT_START


class Misconfigured(CannotStart):
    """
    The process cannot start, and a restart with the same options would fail, too.
    """

    __module__ = "pexservice"
    exit_status = Status.MISCONFIGURED


#: The cause of these errors is not the file itself, so a later attempt may succeed.
_TRANSIENT = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO)
)


def cannot_use(file: str, error: OSError) -> CannotStart:
    """
    Return the exception for a file that an option names and that cannot be used.

    @param file: the file, as the operator knows it.
    """
    kind = CannotStart if error.errno in _TRANSIENT else Misconfigured
    return kind(f"{file}: {error.strerror or error}")


@define(eq=False)
class ProcessExit:
    """
    The end of this process, with a status and a reason.

    @ivar reason: why the process ends, or C{None} if it need not end.
    """

    _log = Logger()

    _reactor: IReactorCore
    # Whether to write the reason to standard error as well.
    _terminal: bool = field(default=True, kw_only=True)
    # Whether to log the reason; false if a supervisor logs it.
    _logs: bool = field(default=True, kw_only=True)
    reason: str | None = field(init=False, default=None)
    _stopping: bool = field(init=False, default=False)
    _stopped: bool = field(init=False, default=False)

    def watch_reactor(self) -> None:
        """
        If the reactor breaks down, end with status 1; twistd would end with status 0.

        Also, ignore each SIGTERM and SIGINT after the first, because stopping the reactor
        twice raises an exception.
        """
        self._reactor.callWhenRunning(self._wrap_signal_handlers)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._reactor_stopped)
        atexit.register(self._end_unless_stopped)

    def _wrap_signal_handlers(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, partial(self._take_signal, handler))

    def _take_signal(
        self, handler: Callable[[int, Any], object], number: int, frame: object
    ) -> None:
        if not self._stopping:
            self._stopping = True
            handler(number, frame)

    def _reactor_stopped(self) -> None:
        self._stopped = True

    def _end_unless_stopped(self) -> None:
        if not self._stopped:
            self._write("the reactor broke down; the log has the reason")
            _end(Status.CANNOT_START)

    def exit_with(self, status: Status, reason: str) -> None:
        """
        Stop the reactor, as soon as it runs, and end with C{status}.

        @param reason: one line, for the log and the terminal.
        """
        if self.reason is not None:
            return
        self.reason = reason
        if self._logs:
            self._log.critical("{reason}", reason=reason)
        # If standard error is the journal, the journal has the log's line already.
        if not is_journal(2):
            self._write(reason)
        atexit.register(_end, status)
        self.stop()

    def _write(self, reason: str) -> None:
        # twistd has replaced sys.stderr by its log.
        if self._terminal and sys.__stderr__ is not None:
            # The file behind standard error may be on the same full disk as the store.
            with suppress(OSError):
                sys.__stderr__.write(error_line(f"pexservice: {reason}"))

    def stop(self) -> None:
        """
        Stop the reactor, as soon as it runs.
        """
        self._reactor.callWhenRunning(self._stop)

    def _stop(self) -> None:
        self._stopping = True
        # The reactor may be stopping already, for example when the last commit fails.
        with suppress(ReactorNotRunning):
            self._reactor.stop()


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
