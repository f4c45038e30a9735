"""
Where the log goes: by default, to standard output, or to C{twistd.log} if twistd forks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, MutableMapping
from typing import IO, Any, NoReturn, cast

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import FileLogObserver, Logger
from twisted.python.logfile import LogFile

from pexservice.process.exit_status import Status
from pexservice.process.log_lines import LogLines, LossyStream, is_journal

#: The log file of a daemon if no option names another file.
_DAEMONS_FILE = "twistd.log"


class Log:
    """
    The log of this process.
    """

    def choose(
        self,
        options: MutableMapping[str, Any],
        make_lines: Callable[..., LogLines],
        end_start: Callable[[str, Status], NoReturn],
    ) -> None:
        """
        Make twistd use L{observer}, unless the options of twistd name another logger.

        @param options: the options of twistd.
        @param make_lines: L{LogLines} or a partial of it: makes the formatter of the lines.
        @param end_start: ends this process if the log cannot be opened.
        """
        self._options = options
        self._make_lines = make_lines
        self._end_start = end_start
        if not (options.get("logger") or options.get("syslog")):
            # twistd accepts a logger only by its name.
            options["logger"] = f"{__name__}.LOG.observer"

    def write(self, reason: str) -> None:
        """
        Log why a daemon does not start.
        """
        Logger(observer=self.observer()).critical("{reason}", reason=reason)

    def observer(self) -> FileLogObserver:
        """
        Open the log, and return the observer that writes to it.
        """
        name = self._options.get("logfile")
        if not self._options.get("nodaemon"):
            if name == "-":
                reason = "a daemon has no standard output to log to: name a --logfile"
                self._end_start(reason, Status.CANNOT_START)
            name = name or _DAEMONS_FILE
        if name and name != "-":
            try:
                return FileLogObserver(_rotated(name), self._make_lines())
            except OSError as error:
                reason = f"the log file {name} cannot be written: {error.strerror}"
                self._end_start(reason, Status.CANNOT_START)
        # twistd has replaced sys.stdout.  If standard output is closed, use standard error.
        stream = sys.__stdout__ or sys.__stderr__
        descriptor = os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()
        lines = self._make_lines(journal=is_journal(descriptor))
        out = cast(IO[str], LossyStream(descriptor, lines.report_loss))
        return FileLogObserver(out, lines)


#: The log of this process.
LOG = Log()


def _rotated(name: str) -> IO[str]:
    """
    Open a log file that is rotated after each megabyte, and at SIGUSR1.
    """
    file = LogFile.fromFullPath(name)

    def rotate(*_: object) -> None:
        from twisted.internet import reactor  # noqa: PLC0415 not before it is chosen

        cast(IReactorFromThreads, reactor).callFromThread(file.rotate)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)

    return cast(IO[str], file)
