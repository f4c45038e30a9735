"""
The lines of the log.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from pexservice.process.log_lines import (
    ACCESS,
    LogLines,
    LossyStream,
    is_journal,
    level_of,
)

#: 2026-11-25T10:50:19.25Z.
NOON = 1795603819.25


def event(text: str, level: Any = LogLevel.info, **fields: object) -> dict[str, Any]:
    """
    Return an event as Twisted makes it.
    """
    return {
        "log_format": text,
        "log_level": level,
        "log_time": NOON,
        "log_namespace": "pexservice.somewhere",
        **fields,
    }


def written(given: dict[str, Any], **how: Any) -> str:
    """
    Return the text that is written for an event.
    """
    return LogLines("supervisor", **how)(given) or ""


def test_line_begins_with_time_process_and_level() -> None:
    before = "2026-11-25T10:50:19Z"
    given = event("worker-{n} serves", n=1)
    assert written(given) == f"{before} supervisor info: worker-1 serves\n"
    given = event("{line}", LogLevel.error, line="full", process="worker-1")
    assert written(given) == f"{before} worker-1 error: full\n"


def test_control_character_is_escaped_and_divides_no_line() -> None:
    odd = "ä\u2028b\x85c\x0bd\x0ce\rf\0g\x1b[1mh"
    line = r"ä\u2028b\x85c\x0bd\x0ce\rf\x00g\x1b[1mh"
    for how in ({"journal": True}, {"piped": True}):
        assert written(event("{line}", line=odd), **how).endswith(line + "\n")


def test_each_line_of_a_traceback_has_it() -> None:
    """
    Each line of a traceback has the prefix, so that a search by level finds all of them.
    """
    given = event("it failed", LogLevel.critical, log_failure=Failure(ValueError("why")))
    first, *others = written(given, journal=True).splitlines()
    assert first == "<2>supervisor critical: it failed"
    assert others
    assert all(other.startswith("<2>supervisor critical: ") for other in others)
    assert others[-1].endswith("ValueError: why")


def test_line_for_the_journal_begins_with_its_priority() -> None:
    """
    In the journal a line has the priority of syslog, and no time, which the journal adds.
    """
    levels = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}
    for level, priority in levels.items():
        given = event("well", LogLevel.lookupByName(level))
        assert written(given, journal=True) == f"<{priority}>supervisor {level}: well\n"


@pytest.mark.parametrize("journal", [False, True])
def test_access_log_line_in_the_journal_has_only_its_level(journal: bool) -> None:  # noqa: FBT001 a parameter
    """
    A facility would stay in the message: journald knows none there.
    """
    line = '::1 - - [T] "GET / HTTP/1.1" 200 5 "-" "-"'
    piped = written(event("{line}", line=line, facility=ACCESS), piped=True)
    level, facility, rest = level_of(piped.rstrip("\n"))
    passed = event("{line}", level, line=rest, facility=facility, process="worker-1")
    assert written(passed, journal=journal) == ("<6>" if journal else "") + line + "\n"


def test_reader_that_stops_reading_loses_whole_messages_and_gets_their_number() -> None:
    """
    The number is the first message that the reader gets when it reads on.
    """
    reading, writing = os.pipe()
    stream = LossyStream(writing, lambda count: f"{count} were dropped\n")
    for number in range(3000):
        stream.write(f"{number} {'x' * 95}\n")
    received = os.read(reading, 1 << 20)
    stream.write("the last\n")
    received += os.read(reading, 1 << 20)
    *whole, dropped, last = received.decode().splitlines()
    assert all(line.endswith("x" * 95) for line in whole)
    assert (dropped, last) == (f"{3000 - len(whole)} were dropped", "the last")
    os.close(reading)
    stream.write("nobody reads this\n")
    os.close(writing)


def test_json_has_one_object_on_one_line_for_each_event() -> None:
    """
    In JSON an event is one object on one line, with its fields, whatever they hold.
    """
    text = written(event("{a} of {b}", a=1, b=b"\xff\n"), as_json=True)
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "time": "2026-11-25T10:50:19.250Z",
        "level": "info",
        "process": "supervisor",
        "event": r"1 of b'\xff\n'",
        "fields": {"a": 1, "b": r"b'\xff\n'"},
    }


def test_event_of_a_worker_keeps_its_fields_in_json() -> None:
    """
    A worker's event keeps its fields on the way through the supervisor.

    A line that is no object becomes its own event.
    """
    piped = written(event("at {n}", LogLevel.error, n=3), as_json=True, piped=True)
    level, _, rest = level_of(piped.rstrip("\n"))
    passed = event("{line}", level, line=rest, process="worker-1")
    logged_event = json.loads(written(passed, as_json=True))
    assert (logged_event["level"], logged_event["process"]) == ("error", "worker-1")
    assert (logged_event["event"], logged_event["fields"]) == ("at 3", {"n": 3})
    for other in ("Segmentation fault", "[1]", '{"event": 1}'):
        passed = event("{line}", line=other, process="worker-1")
        assert json.loads(written(passed, as_json=True))["event"] == other


def test_long_line_is_cut_into_pieces_with_the_same_priority() -> None:
    """
    A long line is cut, and each piece has its priority; a long event loses its fields.

    A piece never looks like a separate line, whatever a client wrote into it.
    """
    pieces = written(event("x" * 5000, LogLevel.warn), piped=True).splitlines()
    assert len(pieces) > 1
    taken = [level_of(piece) for piece in pieces]
    assert {(level, facility) for level, facility, _ in taken} == {(LogLevel.warn, 0)}
    first, *others = (rest for _, _, rest in taken)
    assert first + "".join(piece.removeprefix("... ") for piece in others) == "x" * 5000
    assert all(piece.startswith("... ") for piece in others)
    (line,) = written(event("y" * 50_000), as_json=True, piped=True).splitlines()
    assert len(line) < 8192
    assert json.loads(level_of(line)[2])["event"].startswith("yyy")


@pytest.mark.parametrize("line", ["", "plain", "<>x", "<1234>x", "<a>x", " <6>x"])
def test_line_without_a_priority_is_a_warning(line: str) -> None:
    """
    A line without a priority comes from a process that has no log, and counts as a warning.
    """
    assert level_of(line) == (LogLevel.warn, 0, line)


def test_lines_of_twisted_about_its_ports_are_left_out() -> None:
    """
    The service names its addresses itself.
    """
    for text in ("Factory starting on 8081", "(TCP Port 8081 Closed)"):
        given = event("{log_text}", log_text=text) | {"log_namespace": "log_legacy"}
        assert written(given) == ""
    assert written(event("worker-1 starting on 8081")) != ""


def test_lines_about_connections_of_clients_are_left_out() -> None:
    """
    Twisted's lines about each connection that an HTTP client opens or closes are left out.
    """
    with capturedLogs() as events:
        factory = Factory()
        factory.doStart()
        factory.doStop()
    assert [written(given) for given in events] == ["", ""]


def test_journal_is_recognized_by_its_device_and_inode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Standard error is the journal only if C{JOURNAL_STREAM} names its device and inode.

    Processes whose output goes elsewhere inherit the variable.
    """
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with (tmp_path / "stream").open("wb") as file:
        status = os.fstat(file.fileno())
        name = f"{status.st_dev}:{status.st_ino}"
        assert not is_journal(file.fileno())
        for other in ("", f"{status.st_dev}:{status.st_ino + 1}", f"1{name}"):
            monkeypatch.setenv("JOURNAL_STREAM", other)
            assert not is_journal(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", name)
        assert is_journal(file.fileno())
    assert not is_journal(1_000_000)
