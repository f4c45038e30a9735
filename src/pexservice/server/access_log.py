"""
The access log: a line for each answer, in the combined format.

Lines are gathered and written together, at the end of a second or when there are many.
They are in the order of the answers, whether these took the fast path or the parser.  A
disk that cannot be written costs lines, never an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.logger import Logger
from twisted.web.http import datetimeToLogString

from pexservice.process.log_lines import ACCESS
from pexservice.server.parser import escaped
from pexservice.web.parameters import REFERER, USER_AGENT, Arguments

_log = Logger()

#: The name of the daemon's own log.
OWN_LOG = "-"

#: How many lines are written at once, without waiting for the end of the second.
MOST_LINES = 1000


class Sink(Protocol):
    """
    The destination of the log's lines.
    """

    def write(self, lines: Sequence[bytes]) -> None:
        """
        Write C{lines}, each of which has its line end.

        @raise OSError: some of them are lost.
        """

    def reopen(self) -> None:
        """
        Open the file that has the log's name now, and write there.
        """

    def close(self) -> None:
        """
        Close the destination: no more lines follow.
        """


class LogFile:
    """
    A log file, which is only appended to and may be moved away.
    """

    def __init__(self, path: str) -> None:
        """
        @raise OSError: the file cannot be opened.
        """
        self._path = path
        self._file = self._open()
        # Whether the last write ended within a line.
        self._broken = False

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self._path, flags, 0o640)

    def write(self, lines: Sequence[bytes]) -> None:
        """
        Append C{lines}.
        """
        data = b"\n" * self._broken + b"".join(lines)
        # Until all is written: a write that fails may end within a line.
        self._broken = True
        while data:
            data = data[os.write(self._file, data) :]
        self._broken = False

    def reopen(self) -> None:
        """
        Open the path again, or go on with the present file if that is not possible.
        """
        try:
            file = self._open()
        except OSError as error:
            _log.error("the access log {path}: {error}", path=self._path, error=error)
            return
        os.close(self._file)
        self._file, self._broken = file, False

    def close(self) -> None:
        """
        Close the file.
        """
        os.close(self._file)


class OwnLog:
    """
    The daemon's own log, as the destination of the access log's lines.
    """

    def write(self, lines: Sequence[bytes]) -> None:
        """
        Log each line.
        """
        for line in lines:
            _log.info("{line}", line=line.decode("ascii").rstrip(), facility=ACCESS)

    def reopen(self) -> None:
        """
        Do nothing: the daemon's own log is not opened here.
        """

    def close(self) -> None:
        """
        Do nothing: the daemon's own log is not closed here.
        """


def sink_of(name: str) -> Sink:
    """
    Return the destination that C{--access-log NAME} names.

    @raise OSError: there is no such place.
    """
    return OwnLog() if name == OWN_LOG else LogFile(name)


class AccessLog:
    """
    The access log of one worker.
    """

    def __init__(self, sink: Sink, now: Callable[[], float] = time.time) -> None:
        """
        @param now: the time of day.
        """
        self._sink = sink
        self._now = now
        self._lines: list[bytes] = []
        self._lost = 0
        self._reopen = False
        self._stamp = b""
        self.tick()

    def add(
        self, host: str, request: bytes, status: int, length: int, arguments: Arguments
    ) -> None:
        """
        Add the line of an answer.

        @param host: the client's address, if it has one.
        @param request: the request line, escaped; C{b"- - -"} if there was none.
        @param length: the length of the body that was sent.
        """
        self._lines.append(
            b'"%b" - - %b "%b" %d %b "%b" "%b"\n'
            % (
                host.encode() or b"-",
                self._stamp,
                request,
                status,
                b"%d" % length if length else b"-",
                _value(arguments, REFERER),
                _value(arguments, USER_AGENT),
            )
        )
        if len(self._lines) >= MOST_LINES:
            self.flush()

    def tick(self) -> None:
        """
        Begin another second, once all lines of the last one are written.
        """
        self.flush()
        if self._reopen:
            self._reopen = False
            self._sink.reopen()
        self._stamp = datetimeToLogString(self._now()).encode()

    def flush(self) -> None:
        """
        Write the lines that were gathered.
        """
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._sink.write(lines)
        except OSError as error:
            if not self._lost:
                _log.error("the access log loses lines: {error}", error=error)
            self._lost += len(lines)
        else:
            if self._lost:
                _log.error("the access log lost {count} lines", count=self._lost)
                self._lost = 0

    def reopen(self) -> None:
        """
        Have the log's file opened again when the next second begins.

        A signal handler may call this.
        """
        self._reopen = True

    def close(self) -> None:
        """
        Write the remaining lines, and close the destination.
        """
        self.flush()
        self._sink.close()


def _value(arguments: Arguments, name: bytes) -> bytes:
    values = arguments.get(name)
    return escaped(values[-1] or b"-") if values else b"-"
