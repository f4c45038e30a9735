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
    Return the lines logged when each of C{requests} is sent on a connection of its own.
    """
    before = len(server.lines)
    for each in requests:
        wire = server.connect(peer)
        wire.send(each)
        wire.turns()
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
        (b"GET /current HTTP/1.1", b'"GET /current HTTP/1.1" 400 30 "-" "-"'),
        (b"nonsense", b'"- - -" 400 67 "-" "-"'),
    ],
)
def test_a_line(head: bytes, line: bytes, *, remembers: bool) -> None:
    """
    The line is the same whether the plan cache or the parser led to the answer.

    This holds also for a request that was refused early.
    """
    server = Server(remembers=remembers, logs=True)
    found = lines(server, *[head + b"\r\n\r\n"] * 3, peer=PEER)
    assert found == [b'"192.0.2.1" - - [T] ' + line + b"\n"] * 3


def test_the_order() -> None:
    """
    Lines come in the order of the answers: the line of a step comes when it is durable.
    """
    server = Server(logs=True)
    lines(server, STEP, STEP)
    server.store.held = True
    step = server.connect()
    step.send(STEP)
    step.turns()
    (read,) = lines(server, b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"GET /current" in read
    server.store.finish()
    assert b"POST /next" in server.lines[-1]


def test_a_client_behind_a_proxy() -> None:
    """
    A line names the client behind a proxy, as the rate limit does.

    A Unix socket has no address.
    """
    server = Server(logs=True)
    forwarded = STEP[:-2] + b"X-Forwarded-For: 192.0.2.7\r\n\r\n"
    found = lines(server, STEP, *[forwarded] * 3, peer=UNIXAddress(None))
    assert [line.split(b" ")[0] for line in found] == [b'"-"', *[b'"192.0.2.7"'] * 3]


@pytest.mark.parametrize(
    "value", [b"a", b"it's", b'"', b"'\"", b"\\", b"\\'", b"\xff\n\0", b"", b'\\\\"']
)
def test_escaped(value: bytes) -> None:
    """
    A value is escaped as in Twisted's own log.
    """
    assert escaped(value).decode() == _escape(value)


def test_they_are_written_together() -> None:
    """
    Lines are written together, at the end of a second or when there are many.
    """
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


def test_a_full_disk() -> None:
    """
    A full disk costs lines and no answer.

    The log reports the full disk once, and then the number of lost lines.
    """
    server = Server(logs=True)
    assert server.log is not None
    server.log.failure = OSError(errno.ENOSPC, "no space")
    with capturedLogs() as events:
        for _ in range(3):
            wire = server.connect()
            wire.send(STEP)
            wire.turns()
            assert b" 200 OK" in wire.received
            server.shared.tick()
        server.log.failure = None
        assert len(lines(server, STEP)) == 1
    found = [(each["log_level"], each.get("count")) for each in events]
    assert found == [(LogLevel.error, None), (LogLevel.error, 3)]


def test_a_file_that_is_moved(tmp_path: Path) -> None:
    """
    After a move as logrotate makes it and a signal, new lines go to the new file.
    """
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


def test_it_cannot_be_opened_again(tmp_path: Path) -> None:
    """
    If the file cannot be opened again, the open one stays in use.

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


def test_a_line_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A disk that becomes full within a line does not spoil the next line.
    """
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
    assert cut == b'"-"'
    assert b'"second"' in second
