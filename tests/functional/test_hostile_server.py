"""
C{pexctl} with servers that are broken or hostile.
"""

from __future__ import annotations

import itertools
import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from tests.support.daemon import captured
from tests.support.tcp_server import serving_connections

#: What C{pexctl} may print about a server's response, and the memory that it may use.
MAX_LINE_CHARACTERS = 1000
MAX_MEMORY_KIB = 256 << 10

#: Calls C{pexctl} with each of the URLs, and prints the exit statuses and the peak memory.
#: A process inherits the peak of its parent, so a small process starts this one.
MEASURED = """\
import resource, sys
from pexservice.cli.pexctl import main
verb, option, *urls = sys.argv[1:]
print(*(main([verb, option, "1", "--url", url]) for url in urls))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
PARENT = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"

OK = b"HTTP/1.1 200 OK\r\n"


def problem(body: bytes) -> bytes:
    """
    Return a response with C{body} as its problem.
    """
    return (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def detailed(detail: object) -> bytes:
    """
    Return a response with a problem of the service that has this C{detail}.
    """
    name = "urn:problem-type:pexservice:cross-origin"
    return problem(json.dumps({"type": name, "detail": detail}).encode())


def slowly(data: bytes) -> Iterator[bytes]:
    """
    Yield C{data} endlessly, one byte at a time.
    """
    for byte in itertools.cycle(data):
        time.sleep(0.1)
        yield bytes([byte])


@contextmanager
def serving(pieces: Callable[[], Iterable[bytes]]) -> Iterator[str]:
    """
    Run a server that sends C{pieces} on each connection, and yield its URL.
    """

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in pieces():
            connection.sendall(piece)

    with serving_connections(answer) as port:
        yield f"http://127.0.0.1:{port}"


RESPONSES: dict[str, Callable[[], Iterable[bytes]]] = {
    "terminal escapes": lambda: [detailed("\x1b]0;owned\x07 one\ntwo\r\u202ethree\x9b")],
    "long detail": lambda: [detailed("long " * 10_000)],
    "very long detail": lambda: [detailed("x" * (20 << 20))],
    "detail that is no text": lambda: [detailed([["x"]])],
    "nested problem": lambda: [problem(b"[" * 50_000)],
    "endless header section": lambda: itertools.chain(
        [OK], (b"X-%d: %b\r\n" % (n, b"y" * 5000) for n in itertools.count())
    ),
    "endless 100 Continue": lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    "endless error": lambda: itertools.chain(
        [b"HTTP/1.1 502 No\r\n\r\n"], itertools.repeat(b"\x1b[2J" * 5000)
    ),
    "headers, a byte at a time": lambda: itertools.chain([OK], slowly(b"X: y\r\n")),
    "body, a byte at a time": lambda: itertools.chain(
        [OK + b"Content-Type: application/json\r\n\r\n"], slowly(b" ")
    ),
    "long revision": lambda: [
        OK + b"Content-Length: 0\r\nPex-Position: 1\r\nPex-Revision: " + b"7" * 5000,
        b"\r\n\r\n",
    ],
    "revision of no number": lambda: [
        OK + b"Content-Length: 0\r\nPex-Position: 1\r\nPex-Revision: \xb2\r\n\r\n"
    ],
    "status of no HTTP": lambda: [b"SSH-2.0-\x1b[2J" + b"y" * 50_000 + b"\r\n"],
    "reasons for not being ready": lambda: [
        b"HTTP/1.1 503 No\r\nContent-Length: 52000\r\n\r\n" + b"[-]\x1b[2J full \n" * 4000
    ],
}


def ask(verb: tuple[str, str], names: list[str]) -> None:
    """
    Run C{pexctl} against servers with these responses, and check its output.
    """
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(RESPONSES[name])) for name in names]
        child = [sys.executable, "-c", MEASURED, *verb, *urls]
        ended = captured([sys.executable, "-c", PARENT, *child])
    assert ended.returncode == 0, ended.stderr
    # pexctl has written nothing to standard output, so it contains only the numbers.
    *statuses, memory_kib = map(int, ended.stdout.split())
    lines = ended.stderr.removesuffix("\n").split("\n")
    assert len(lines) == len(names), (names, lines)
    for name, status, line in zip(names, statuses, lines, strict=True):
        assert status in (1, 69, 75), (name, line)
        assert line.startswith("pexctl: "), name
        assert line.isprintable(), (name, line)
        assert len(line) < MAX_LINE_CHARACTERS, name
    assert memory_kib < MAX_MEMORY_KIB, names


@pytest.mark.parametrize("verb", [("status", "--timeout"), ("next", "--deadline")])
def test_hostile_response_ends_in_one_short_printable_line(verb: tuple[str, str]) -> None:
    """
    C{pexctl} ends at its deadline, uses bounded memory, and escapes control characters.
    """
    # Most calls wait for their deadline.
    groups = [list(RESPONSES)[start::2] for start in range(2)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(partial(ask, verb), groups))
