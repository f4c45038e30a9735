"""
What responses reveal, and which files requests reach.

The requests are all attacks of the fault-injection tests, and paths that lead out of the
service.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import DATA_FILE
from tests.functional.test_keepalive import STORE
from tests.labs.attacks.attacking import in_one_piece, request
from tests.labs.attacks.lab import COMPLETE
from tests.support.daemon import TIMEOUT_SECONDS, WORKER, Daemon, read_all
from tests.support.strace import Tracer

#: Paths that might lead out of the service.
PATHS = (
    b"/../../../../etc/passwd",
    b"/..%2f..%2f..%2fetc%2fpasswd",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/current/../../etc/passwd",
    b"//etc/passwd",
    b"/etc/passwd",
    b"/current%00.txt",
    b"/pexservice-data/data.mdb",
    b"/current?file=/etc/passwd",
    b"/history?before=../../etc/passwd",
    b"/history?limit=1&store=/tmp/other",
)

#: Headers whose value contains a path or a program.
HEADERS = (
    b"Idempotency-Key: ../../../../tmp/owned",
    b"Idempotency-Key: $(touch /tmp/owned)",
    b'If-Match: "../../etc/passwd"',
    b"Authorization: Bearer ../../etc/passwd",
    b"X-Forwarded-For: ../../etc/passwd",
    b"Origin: file:///etc/passwd",
)


def everything() -> Iterator[bytes]:
    """
    Yield all requests.
    """
    for path in PATHS:
        yield request(b"GET " + path + b" HTTP/1.1", b"Connection: close")
    for header in HEADERS:
        yield request(b"POST /next HTTP/1.1", header, b"Connection: close")
    for attack in COMPLETE:
        yield from in_one_piece(attack)


def ask(daemon: Daemon, sent: bytes) -> bytes:
    """
    Send C{sent}, close the client's half of the connection, and return the response.
    """
    with (
        socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_SECONDS) as connection,
        suppress(ConnectionError),
    ):
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)
    return b""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide one worker for all tests.
    """
    with Daemon(tmp_path_factory.mktemp("run"), command=WORKER) as daemon:
        yield daemon


def test_no_response_contains_versions_paths_or_tracebacks(daemon: Daemon) -> None:
    secrets = [
        str(daemon.path).encode(),
        str(Path(sys.prefix)).encode(),
        version("twisted").encode(),
        version("klein").encode(),
        *(b"site-packages", b"Traceback", b'File "', b"twisted", b"klein", b"werkzeug"),
        b"Python/",
    ]
    received = b"".join(ask(daemon, sent) for sent in everything())
    assert received.count(b"HTTP/1.1 4") > 200
    for secret in secrets:
        match = re.search(re.escape(secret), received, re.IGNORECASE)
        assert match is None, received[max(0, match.start() - 200) :][:400]


@pytest.mark.needs("strace")
def test_requests_open_no_file_but_the_stores(daemon: Daemon, tmp_path: Path) -> None:
    trace, store = tmp_path / "trace", daemon.path / STORE
    # The first requests import modules.
    for sent in everything():
        ask(daemon, sent)
    before = {path.name for path in daemon.path.iterdir()}
    with Tracer(daemon.process.pid, "-y", "-e", "trace=%file", output=trace):
        answers = [ask(daemon, sent) for sent in everything()]
    assert len(answers) > 300
    assert {path.name for path in daemon.path.iterdir()} == before
    allowed = (str(store), "/etc/localtime", "/proc/")
    touched = re.findall(r'"([^"]+)"', trace.read_text())
    assert not [path for path in touched if not path.startswith(allowed)], touched
    assert {path.name for path in store.iterdir()} <= {DATA_FILE, "lock.mdb", "newest"}
