"""
The destination of the log: standard output, or a daemon's file, as C{twistd} has it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import IO, Any, cast

from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.logfile import LogFile

from pexservice.process.log_lines import LogLines, is_journal
from pexservice.settings.options import Settings

#: The log file of a daemon whose options name none.
_DAEMONS_FILE = "twistd.log"


class Log:
    """
    The log of this process, made when twistd begins to log.
    """

    def __init__(self) -> None:
        self._options: Mapping[str, Any] = {}
        self._settings = Settings()
        self._process = ""

    def choose(
        self, options: MutableMapping[str, Any], settings: Settings, process: str
    ) -> None:
        """
        Have twistd log by L{observer}, unless its options name another logger.

        @param options: the options of twistd.
        @param process: the name of this process.
        """
        self._options, self._settings, self._process = options, settings, process
        if not (options.get("logger") or options.get("syslog")):
            # twistd takes the name of a logger, and nothing else.
            options["logger"] = f"{__name__}.LOG.observer"

    def observer(self) -> LogLines:
        """
        Return the log observer that twistd logs by.
        """
        name = self._options.get("logfile")
        as_json = self._settings.log_format == "json"
        if name and name != "-":
            return LogLines(_rotated(name), self._process, as_json)
        if not self._options.get("nodaemon"):
            if name:
                sys.exit("a daemon has no standard output to log to: name a --logfile")
            return LogLines(_rotated(_DAEMONS_FILE), self._process, as_json)
        # twistd puts the log in the place of sys.stdout.
        stream = cast(IO[str], sys.__stdout__)
        return LogLines(
            _flushed(stream),
            self._process,
            as_json,
            journal=is_journal(stream.fileno()),
            piped=self._settings.is_supervised,
        )


#: The log of this process.
LOG = Log()


def _flushed(stream: IO[str]) -> Callable[[str], object]:
    def write(lines: str) -> None:
        stream.write(lines)
        stream.flush()

    return write


def _rotated(name: str) -> Callable[[str], object]:
    """
    Return a writer to a file that is rotated at each megabyte and each SIGUSR1.
    """
    file = LogFile.fromFullPath(name)

    def rotate(*_: object) -> None:
        from twisted.internet import reactor  # noqa: PLC0415 not before it is chosen

        cast(IReactorFromThreads, reactor).callFromThread(file.rotate)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)

    def write(lines: str) -> None:
        file.write(lines)
        file.flush()

    return write
