"""
Tests of the lines of the access log and of the places where they are written.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.logger import LogLevel, capturedLogs
from twisted.web.http import _escape

from pexservice.server.access_log import MAX_COLLECTED_LINES, AccessLog
from pexservice.server.parser import escaped
from tests.support.wire import KeptLog, Server

STAMP = b"[18/Nov/2026:11:06:40 +0000]"
STEP = b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"


def lines(server: Server, *requests: bytes, peer: object = None) -> list[bytes]:
    """
    Return the lines logged when each of C{requests} is sent on its own connection.
    """
    before = len(server.lines)
    for request in requests:
        server.ask(request, peer=peer)
    return [line.replace(STAMP, b"[T]") for line in server.lines[before:]]


PEER = IPv4Address("TCP", "192.0.2.1", 1)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize(
    ("head", "line"),
    [
        (b"GET /current HTTP/1.1\r\nHost: h", b'"GET /current HTTP/1.1" 200 2 "-" "-"'),
        (b"HEAD /current HTTP/1.1\r\nHost: h", b'"HEAD /current HTTP/1.1" 200 - "-" "-"'),
        (
            b'GET /current?a=b HTTP/1.0\r\nUser-Agent: it\'s "me"\r\nReferer: http://a/',
            b'"GET /current?a=b HTTP/1.0" 200 2 "http://a/" "it\'s \\"me\\""',
        ),
        (
            b'GET /current HTTP/1.1\r\nHost: h\r\nIf-None-Match: "0"',
            b'"GET /current HTTP/1.1" 304 - "-" "-"',
        ),
        (
            b"POST /next HTTP/1.1\r\nHost: h\r\nIdempotency-Key: a b",
            b'"POST /next HTTP/1.1" 400 78 "-" "-"',
        ),
        (b"GET /nowhere HTTP/1.1\r\nHost: h", b'"GET /nowhere HTTP/1.1" 404 114 "-" "-"'),
        (
            b"POST /next HTTP/1.1\r\nUser-Agent: a",
            b'"POST /next HTTP/1.1" 400 42 "-" "a"',
        ),
        (b"nonsense", b'"- - -" 400 59 "-" "-"'),
    ],
)
def test_line_is_the_same_with_and_without_a_plan(
    head: bytes, line: bytes, *, remembers: bool
) -> None:
    """
    The same is true of a request that was refused early.
    """
    server = Server(remembers=remembers, logs=True)
    written_lines = lines(server, *[head + b"\r\n\r\n"] * 3, peer=PEER)
    assert written_lines == [b"192.0.2.1 - - [T] " + line + b"\n"] * 3


def test_lines_follow_the_order_of_the_responses() -> None:
    """
    A step's line is written when the step is durable.
    """
    server = Server(logs=True)
    lines(server, STEP, STEP)
    server.store.held = True
    server.ask(STEP)
    (read,) = lines(server, b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"GET /current" in read
    server.store.finish()
    assert b"POST /next" in server.lines[-1]


def test_line_names_the_client_behind_a_proxy() -> None:
    """
    A client on a Unix socket has no address.
    """
    server = Server(logs=True)
    forwarded = STEP[:-2] + b"X-Forwarded-For: 192.0.2.7\r\n\r\n"
    written_lines = lines(server, STEP, *[forwarded] * 3, peer=UNIXAddress(None))
    hosts = [line.partition(b" - - [T] ")[0] for line in written_lines]
    assert hosts == [b"-", *[b"192.0.2.7"] * 3]


@pytest.mark.parametrize(
    "value", [b"a", b"it's", b'"', b"'\"", b"\\", b"\\'", b"\xff\n\0", b"", b'\\\\"']
)
def test_value_is_escaped_as_in_the_log_of_twisted(value: bytes) -> None:
    assert escaped(value).decode() == _escape(value)


def test_lines_are_written_each_second_or_when_there_are_many() -> None:
    log = KeptLog()
    log.add("", b"-", 200, 0, {})
    assert log.written == []
    log.tick()
    assert len(log.written) == 1
    for _ in range(MAX_COLLECTED_LINES):
        log.add("", b"-", 200, 0, {})
    assert len(log.written) == 1 + MAX_COLLECTED_LINES
    log.add("", b"-", 200, 0, {})
    log.close()
    assert len(log.written) == 2 + MAX_COLLECTED_LINES


def test_full_disk_loses_lines_and_no_response() -> None:
    """
    The log reports the full disk once, and later the number of lost lines.
    """
    server = Server(logs=True)
    assert server.log is not None
    server.log.failure = OSError(errno.ENOSPC, "no space")
    with capturedLogs() as events:
        for _ in range(3):
            assert server.ask(STEP).statuses == [200]
            server.shared.tick()
        server.log.failure = None
        assert len(lines(server, STEP)) == 1
    logged = [(event["log_level"], event.get("count")) for event in events]
    assert logged == [(LogLevel.error, None), (LogLevel.error, 3)]


def test_lines_go_to_a_new_file_after_logrotate_and_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    log.add("", b"1", 200, 0, {})
    log.tick()
    path.rename(tmp_path / "access.log.1")
    log.add("", b"2", 200, 0, {})
    log.reopen()
    log.tick()
    log.add("", b"3", 200, 0, {})
    log.close()
    assert (tmp_path / "access.log.1").read_bytes().count(b"\n") == 2
    assert b'"3"' in path.read_bytes()


def test_open_file_stays_in_use_if_it_cannot_be_opened_again(tmp_path: Path) -> None:
    """
    The daemon's log says so.
    """
    place = tmp_path / "place"
    place.mkdir()
    path = place / "access.log"
    log = AccessLog(str(path))
    path.rename(tmp_path / "moved")
    place.rmdir()
    log.reopen()
    with capturedLogs() as events:
        log.tick()
    assert "No such file" in str(events[0]["error"])
    log.add("", b"1", 200, 0, {})
    log.close()
    assert (tmp_path / "moved").read_bytes().count(b"\n") == 1


def test_named_pipe_that_nobody_reads_stops_no_worker(tmp_path: Path) -> None:
    """
    Without a reader, opening the pipe fails.  If the reader stops reading, lines are lost.
    """
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        AccessLog(str(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(path))
    with capturedLogs() as events:
        log.add("", b"x" * 1_000_000, 200, 0, {})
        log.close()
    os.close(reader)
    assert [event["log_format"] for event in events] == [
        "cannot write the access log: {error}"
    ]


def test_line_cut_by_a_full_disk_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    real = os.write
    results = iter([3, None])

    def write(descriptor: int, data: bytes) -> int:
        most = next(results, len(data))
        if most is None:
            raise OSError(errno.ENOSPC, "no space")
        return real(descriptor, data[:most])

    monkeypatch.setattr(os, "write", write)
    for request in (b"first", b"second"):
        log.add("", request, 200, 0, {})
        log.flush()
    log.close()
    cut, second = path.read_bytes().splitlines()
    assert cut == b"- -"
    assert b'"second"' in second
