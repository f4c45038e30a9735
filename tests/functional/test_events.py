"""
Event streams over real sockets.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.functional.test_wire import connect
from tests.labs.attacks.attacking import request
from tests.support.daemon import REACTORS, WORKER, Daemon, read_all, wait_until_gone

WATCH = b"GET /events HTTP/1.1"


@pytest.fixture(params=REACTORS)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """
    Provide a daemon on each event loop.
    """
    with Daemon(tmp_path, command=WORKER, reactor=request.param) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log.read_text()


def read_until(connection: socket.socket, pattern: bytes) -> bytes:
    """
    Read until the input matches C{pattern}, and return the input.
    """
    received = b""
    while not re.search(pattern, received):
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return received


def test_streams_end_properly_when_the_service_stops(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.sendall(request(WATCH))
        read_until(connection, rb"id: 0\n")
        daemon.process.terminate()
        assert read_all(connection).endswith(b"0\r\n\r\n")
        daemon.wait()


def test_next_worker_resumes_a_stream_that_ended_with_its_worker(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        for last_id in range(2):
            with connect(daemon) as connection:
                connection.sendall(request(WATCH, b"Last-Event-ID: %d" % last_id))
                received = read_until(connection, rb"retry: \d+\n\n")
                daemon.step()
                received += read_until(connection, rb"id: \d+\ndata: .*\n\n\r\n")
                assert re.findall(rb"id: (\d+)\n", received) == [b"%d" % (last_id + 1)]
                if last_id == 0:
                    wait_until_gone(daemon.kill_active_worker())
                    with suppress(ConnectionResetError):
                        assert read_all(connection) == b""
