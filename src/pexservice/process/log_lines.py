"""
The lines of the log: text with a prefix, or JSON, with priorities for systemd's journal.

A line is C{2026-11-25T10:50:19Z worker-1 info: the cursor is at ...}.  For the journal, a
priority replaces the time: C{<6>worker-1 info: ...}; see sd-daemon(3).  A worker writes its
lines to its supervisor with the priority and no other prefix: the supervisor knows which
worker each line comes from.

A line of the access log has the combined format, without time, name and level.  A worker
marks it for its supervisor by the priority C{<134>}, which contains syslog's facility
local0.  The supervisor writes a priority without a facility, because the journal would show
the facility in the message.

If the program that reads the log stops reading, for example a paused C{less}, lines are
lost.  The service does not wait.
"""

from __future__ import annotations

import json
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from attrs import frozen
from twisted.logger import LogEvent, LogLevel, eventAsText

#: syslog's severities.
_SEVERITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}

_LEVELS = {severity: level for level, severity in _SEVERITIES.items()}

#: The C{facility} of an event whose line is one of the access log: syslog's local0.
ACCESS = 16

_PRIORITY = re.compile(r"<([0-9]{1,3})>(.*)", re.DOTALL)

#: A worker divides a line with more characters, of up to four bytes each.  Otherwise the
#: supervisor would divide it after 8192 bytes, and the second part would have no priority.
_MAX_LINE_CHARACTERS = 2000

#: The beginning of each further part of a line that was divided.
_CONTINUED = "... "

#: How much is written to a stream at once.  A pipe that poll calls writable accepts this
#: much.
_CHUNK_BYTES = 4096

#: Lines that Twisted logs about a port.  The code that opens the port logs better lines.
_NOISE = re.compile(r"\S+ starting on \S+|\(\S+ Port \S+ Closed\)")

#: Formats of the lines that Twisted logs for each connection of an HTTP client.
_NOISY_FORMATS = ("Starting factory {factory!r}", "Stopping factory {factory!r}")

#: Fields of an event that Twisted adds.
_TWISTED_FIELDS = frozenset(
    ("time", "system", "message", "isError", "format", "printed", "failure", "why")
)


def is_journal(descriptor: int) -> bool:
    """
    Return whether C{descriptor} leads to systemd's journal.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def error_line(message: str) -> str:
    """
    Return the line that reports an error on standard error, outside the log.
    """
    return f"{'<3>' if is_journal(2) else ''}{message}\n"


def level_of(line: str) -> tuple[Any, int, str]:
    """
    Split a line that a worker has written into its priority and its text.

    @return: the line's level, facility and text.  A line without a priority is a warning:
        it was written before logging began, or by code that does not use the log.
    """
    match = _PRIORITY.fullmatch(line)
    if match is None:
        return LogLevel.warn, 0, line
    facility, severity = divmod(int(match[1]), 8)
    return _LEVELS.get(severity, LogLevel.info), facility, match[2]


@frozen
class LogLines:
    """
    Formats each event as one or more lines.

    @ivar process: the name of this process; an event of a worker has the worker's name in
        its field C{process}.
    @ivar as_json: whether each event is written as one JSON object.
    @ivar journal: whether systemd's journal reads the lines.
    @ivar piped: whether this process's supervisor reads the lines.
    """

    process: str
    as_json: bool = False
    journal: bool = False
    piped: bool = False

    def __call__(self, event: LogEvent) -> str | None:
        """
        Return the lines of C{event}, or C{None} for noise.
        """
        if event.get("log_namespace") == "log_legacy" and _NOISE.fullmatch(_text_of(event)):
            return None
        if event.get("log_format") in _NOISY_FORMATS:
            return None
        level = event.get("log_level", LogLevel.info)
        facility = event.get("facility", 0)
        prefix = ""
        if self.journal or self.piped:
            shown_facility = facility if self.piped else 0
            prefix = f"<{8 * shown_facility + _SEVERITIES.get(level, 6)}>"
        lines = self._json(event) if self.as_json else self._text(event, level, facility)
        # The lines of one event are one text, so that they stay together.
        return "".join(f"{prefix}{line}\n" for line in lines)

    def report_loss(self, count: int) -> str:
        event = {
            "log_level": LogLevel.warn,
            "log_time": time.time(),
            "log_format": "{count} log messages were dropped: no program read them",
            "count": count,
        }
        return self(event) or ""

    def _text(self, event: LogEvent, level: Any, facility: int) -> Iterator[str]:
        before = f"{event.get('process', self.process)} {level.name}: "
        if facility == ACCESS or self.piped:
            before = ""
        elif not self.journal:
            before = f"{_time(event, 'seconds')} {before}"
        for line in _text_of(event).split("\n"):
            if not line.isprintable():
                # Other characters than a newline may divide a line, or change the state of
                # a terminal.
                line = "".join(map(_escaped, line))  # noqa: PLW2901
            if not self.piped:
                yield before + line
                continue
            for start in range(0, len(line) or 1, _MAX_LINE_CHARACTERS):
                # A client may choose a text whose second part looks like a line of the log,
                # so each further part begins with _CONTINUED.
                yield (_CONTINUED if start else "") + line[
                    start : start + _MAX_LINE_CHARACTERS
                ]

    def _json(self, event: LogEvent) -> Iterator[str]:
        content: dict[str, Any] = {"event": _text_of(event), "fields": _fields(event)}
        if self.piped:
            line = json.dumps(content)
            if len(line) > _MAX_LINE_CHARACTERS:
                text = content["event"][: _MAX_LINE_CHARACTERS // 8]
                line = json.dumps({"event": text, "fields": {}})
            yield line
            return
        if "line" in event and "process" in event:
            content = _content_from_worker(event["line"])
        level = event.get("log_level", LogLevel.info).name
        process = event.get("process", self.process)
        time = _time(event, "milliseconds")
        yield json.dumps({"time": time, "level": level, "process": process, **content})


class LossyStream:
    """
    A stream that drops messages while its reader does not read.

    The number of dropped messages is reported when the reader continues.
    """

    def __init__(self, descriptor: int, report_loss: Callable[[int], str]) -> None:
        """
        Write to C{descriptor}, which other processes may write to as well.

        @param report_loss: returns the message that says how many were dropped.
        """
        self._descriptor = descriptor
        self._report_loss = report_loss
        # O_NONBLOCK would change the stream for other processes, too, such as a shell.
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._unwritten = b""
        self._lost = 0

    def write(self, message: str) -> None:
        """
        Write C{message}, or drop it if an earlier one was not read yet.
        """
        if not self._drain():
            self._lost += 1
            return
        if self._lost:
            message = self._report_loss(self._lost) + message
            self._lost = 0
        self._unwritten = message.encode(errors="backslashreplace")
        self._drain()

    def flush(self) -> None:
        """
        Do nothing: L{write} has written everything that the reader accepts.
        """

    def _drain(self) -> bool:
        """
        Write the rest of the last message, and return whether all of it was written.
        """
        while self._unwritten:
            if not self._poll.poll(0):
                return False
            try:
                written = os.write(self._descriptor, self._unwritten[:_CHUNK_BYTES])
            except BlockingIOError:
                return False
            except OSError:
                # The reader is gone, or the disk is full.
                self._unwritten = b""
                self._lost += 1
                return False
            self._unwritten = self._unwritten[written:]
        return True


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def _text_of(event: LogEvent) -> str:
    return eventAsText(event, includeTimestamp=False, includeSystem=False).rstrip()


def _time(event: LogEvent, precision: str) -> str:
    moment = datetime.fromtimestamp(event.get("log_time", 0), UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def _fields(event: LogEvent) -> dict[str, object]:
    return {
        name: value if isinstance(value, (str, int, float, bool)) else str(value)
        for name, value in event.items()
        if not name.startswith("log_")
        and name not in _TWISTED_FIELDS
        and name != "facility"
    }


def _content_from_worker(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    if isinstance(content, dict) and content.keys() == {"event", "fields"}:
        return content
    return {"event": line, "fields": {}}
