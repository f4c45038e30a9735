"""
The memory of a worker whose clients send lines that no other request had.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import TIMEOUT_SECONDS, Daemon
from tests.support.forms import amount

CONNECTIONS = 50

#: The numbers of requests; the first fill all bounded caches.
FEW = 10_000
MANY = amount(short=40_000, long=1_000_000)
FEWER = amount(short=20_000, long=200_000)

#: The memory that the allocator may take or give back meanwhile.  Bytes.
SPARE = 2 << 20

_HEAD = b"GET /current HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a/1\r\n%b\r\n\r\n"

#: The part of a request that differs, and the number of requests.
KINDS = {
    "value": (b"X-Request-ID: %032d", MANY),
    "name": (b"X-%032d: 1", FEWER),
    "tag": (b'If-None-Match: "%032d"', FEWER),
}


@contextmanager
def connected(port: int) -> Iterator[list[socket.socket]]:
    """
    Provide as many connections as there are concurrent requests.
    """
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
            )
            for _ in range(CONNECTIONS)
        ]


def ask(connections: list[socket.socket], line: bytes, numbers: range) -> None:
    """
    Send requests with C{line}, a number in each, and take their answers.
    """
    step = len(connections)
    for first in numbers[::step]:
        for number, connection in enumerate(connections, first):
            connection.send(_HEAD % (line % number))
        for connection in connections:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def memory(daemon: Daemon) -> int:
    """
    Return how many bytes the process has for itself.
    """
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) << 10


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_a_worker_does_not_grow_with_requests(tmp_path: Path, kind: str) -> None:
    """
    Each request has its own header line.
    """
    line, count = KINDS[kind]
    with (
        Daemon(tmp_path, command="pexservice-worker") as daemon,
        connected(daemon.port) as connections,
    ):
        ask(connections, line, range(FEW))
        before = memory(daemon)
        ask(connections, line, range(FEW, count))
        after = memory(daemon)
    print(f"{kind}: {before:,} bytes after {FEW:,}, {after:,} after {count:,}")
    assert after - before <= SPARE
