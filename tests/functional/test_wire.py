"""
Requests and responses as bytes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import DATA_FILE
from tests.functional.test_keepalive import STORE
from tests.labs.attacks.attacking import Front, request
from tests.labs.attacks.lab import COMPLETE
from tests.support.daemon import (
    REACTORS,
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    read_all,
)
from tests.support.forms import amount
from tests.support.strace import Tracer


@pytest.fixture(scope="module", params=amount(short=["uvloop"], long=REACTORS))
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """
    Provide one daemon on an event loop for all tests that do not trace it.
    """
    path = tmp_path_factory.mktemp("wire")
    options = ("--max-connections", "500")
    with Daemon(path, *options, command=WORKER, reactor=request.param) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log.read_text()


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_SECONDS)


def exchange(daemon: Daemon, sent: bytes) -> bytes:
    """
    Send bytes, and read until the service closes the connection.
    """
    with connect(daemon) as connection:
        connection.sendall(sent)
        return read_all(connection)


THOUSAND_STEPS = request(b"POST /next HTTP/1.1") * 999 + request(b"POST /next HTTP/1.0")


def test_every_attack_gets_the_response_of_its_rule_and_moves_nothing_unanswered(
    daemon: Daemon,
) -> None:
    """
    The bytes after a refused request are not parsed as a request.
    """
    check_attacks(daemon)


def check_attacks(daemon: Daemon) -> None:
    wrong = Front(daemon.port, daemon.revision).try_all(COMPLETE)
    assert not wrong, "\n".join(wrong)


@pytest.mark.needs("strace")
def test_attacks_open_no_file_but_the_stores(tmp_path: Path) -> None:
    trace, place = tmp_path / "trace", tmp_path / "daemon"
    place.mkdir()
    store = place / STORE
    with Daemon(place, command=WORKER, reactor="asyncio") as daemon:
        # The first requests import modules.
        check_attacks(daemon)
        before = {path.name for path in place.iterdir()}
        with Tracer(daemon.process.pid, "-y", "-e", "trace=%file", output=trace):
            check_attacks(daemon)
        assert {path.name for path in place.iterdir()} == before
        assert "Traceback" not in daemon.log.read_text()
    allowed = (str(store), "/etc/localtime", "/proc/")
    touched = re.findall(r'"([^"]+)"', trace.read_text())
    assert not [path for path in touched if not path.startswith(allowed)], touched
    assert {path.name for path in store.iterdir()} <= {DATA_FILE, "lock.mdb", "newest"}


def test_response_has_exactly_these_bytes(daemon: Daemon) -> None:
    """
    The date and the numbers may differ.
    """
    received = exchange(daemon, request(b"GET /current HTTP/1.0"))
    assert re.fullmatch(
        rb"HTTP/1\.0 200 OK\r\n"
        rb"Connection: close\r\n"
        rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        rb"X-Content-Type-Options: nosniff\r\n"
        rb"Cross-Origin-Resource-Policy: same-origin\r\n"
        rb"Content-Type: text/plain; charset=utf-8\r\n"
        rb"Pex-Revision: \d+\r\n"
        rb"Pex-Position: \d+\r\n"
        rb'ETag: "\d+"\r\n'
        rb"Cache-Control: no-store\r\n"
        rb"Vary: Accept\r\n"
        rb"Content-Length: \d+\r\n"
        rb"\r\n\d+\n",
        received,
    ), received


def test_pipelined_requests_get_their_responses_in_order_once(daemon: Daemon) -> None:
    before = daemon.revision()
    received = exchange(daemon, THOUSAND_STEPS)
    revisions = map(int, re.findall(rb"Pex-Revision: (\d+)", received))
    assert [*revisions] == [*range(before + 1, before + 1001)]
