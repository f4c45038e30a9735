"""
The memory of a worker whose clients send a new header line in each request.
"""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.functional.test_wire import connect
from tests.support.daemon import WORKER, Daemon
from tests.support.forms import amount

CONNECTIONS = 50

#: Numbers of requests.  After the first one, all bounded caches are full.
FEW = 10_000
MANY = amount(short=40_000, long=1_000_000)
FEWER = amount(short=20_000, long=200_000)

#: The allocator may take this much memory for other reasons.
MAX_GROWTH_BYTES = 2 << 20

_HEAD = b"GET /current HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a/1\r\n%b\r\n\r\n"

#: For each kind of new header line: the line, and the number of requests.
KINDS = {
    "value": (b"X-Request-ID: %032d", MANY),
    "name": (b"X-%032d: 1", FEWER),
    "tag": (b'If-None-Match: "%032d"', FEWER),
}


def ask(connections: list[socket.socket], line: bytes, numbers: range) -> None:
    """
    Send requests that have C{line} with different numbers, and read their responses.
    """
    step = len(connections)
    for first in numbers[::step]:
        for number, connection in enumerate(connections, first):
            connection.send(_HEAD % (line % number))
        for connection in connections:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def memory(daemon: Daemon) -> int:
    """
    Return the private memory of the process in bytes.
    """
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) << 10


def test_memory_of_a_worker_does_not_grow_with_requests(tmp_path: Path) -> None:
    with Daemon(tmp_path, command=WORKER) as daemon, ExitStack() as stack:
        connections = [stack.enter_context(connect(daemon)) for _ in range(CONNECTIONS)]
        for kind, (line, count) in KINDS.items():
            ask(connections, line, range(FEW))
            before = memory(daemon)
            ask(connections, line, range(FEW, count))
            after = memory(daemon)
            print(f"{kind}: {before:,} bytes after {FEW:,}, {after:,} after {count:,}")
            assert after - before <= MAX_GROWTH_BYTES, kind
