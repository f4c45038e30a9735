"""
The access log: one line for each response, in the combined format.

Lines are collected.  Once a second, or when there are 1,000 of them, they are written
together, in the order of the responses.  Lines that cannot be written are dropped, so that
no response waits for the log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from twisted.logger import Logger
from twisted.web.http import datetimeToLogString

from pexservice.process.log_lines import ACCESS
from pexservice.server.parser import escaped
from pexservice.web.parameters import REFERER, USER_AGENT, RequestHeaders

_log = Logger()

#: The path that stands for the daemon's own log.
OWN_LOG = "-"

#: When this many lines are collected, they are written at once.
MAX_COLLECTED_LINES = 1000


class AccessLog:
    """
    The access log of one worker, which is a file or the daemon's log.
    """

    def __init__(self, path: str, now: Callable[[], float] = time.time) -> None:
        """
        Open the log.

        @param path: the file, or L{OWN_LOG}.
        @param now: returns the time in seconds since the epoch.
        @raise OSError: the file cannot be opened.
        """
        self._path = path
        self._file = None if path == OWN_LOG else self._open()
        # Whether the file may end with a part of a line, because the last write failed.
        self._write_failed = False
        self._now = now
        self._lines: list[bytes] = []
        self._lost_lines = 0
        self._must_reopen = False
        self._timestamp = b""
        self.tick()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        # Without O_NONBLOCK, a named pipe without a reader would block the worker.
        return os.open(self._path, flags | os.O_NONBLOCK, 0o640)

    def add(
        self, host: str, request: bytes, status: int, length: int, headers: RequestHeaders
    ) -> None:
        """
        Add the line of a response.

        @param host: the client's IP address, if it has one.
        @param request: the request line, escaped; C{b"- - -"} if there was none.
        @param length: how many bytes of body were sent.
        """
        self._lines.append(
            b'%b - - %b "%b" %d %b "%b" "%b"\n'
            % (
                host.encode() or b"-",
                self._timestamp,
                request,
                status,
                b"%d" % length if length else b"-",
                _value(headers, REFERER),
                _value(headers, USER_AGENT),
            )
        )
        if len(self._lines) >= MAX_COLLECTED_LINES:
            self.flush()

    def tick(self) -> None:
        """
        Write the lines of the last second, and begin the next second.
        """
        self.flush()
        if self._must_reopen and self._file is not None:
            try:
                file = self._open()
            except OSError as error:
                # The log keeps its open file, which an operator may have moved away.
                _log.error("the access log keeps its present file: {error}", error=error)
            else:
                os.close(self._file)
                self._file, self._write_failed = file, False
        self._must_reopen = False
        self._timestamp = datetimeToLogString(self._now()).encode()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._write(lines)
        except OSError as error:
            if not self._lost_lines:
                _log.error("cannot write the access log: {error}", error=error)
            self._lost_lines += len(lines)
        else:
            if self._lost_lines:
                _log.error("the access log has lost {count} lines", count=self._lost_lines)
                self._lost_lines = 0

    def _write(self, lines: Sequence[bytes]) -> None:
        if self._file is None:
            for line in lines:
                _log.info("{line}", line=line.decode("ascii").rstrip(), facility=ACCESS)
            return
        data = b"\n" * self._write_failed + b"".join(lines)
        # A failed write may have written a part of the lines.
        self._write_failed = True
        while data:
            data = data[os.write(self._file, data) :]
        self._write_failed = False

    def reopen(self) -> None:
        """
        Open the log's file again when the next second begins.

        This method only sets a flag, so a signal handler may call it.
        """
        self._must_reopen = True

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            os.close(self._file)


def _value(headers: RequestHeaders, name: bytes) -> bytes:
    values = headers.get(name)
    return escaped(values[-1] or b"-") if values else b"-"
