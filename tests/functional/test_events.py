"""
Event streams over real sockets.
"""

from __future__ import annotations

import os
import re
import signal
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
        for kill in range(2):
            with connect(daemon) as connection:
                connection.sendall(request(WATCH, b"Last-Event-ID: %d" % kill))
                received = read_until(connection, rb"retry: \d+\n\n")
                daemon.step()
                received += read_until(connection, rb"id: \d+\ndata: .*\n\n\r\n")
                assert re.findall(rb"id: (\d+)\n", received) == [b"%d" % (kill + 1)]
                daemon.until_logged("serves", kill + 1)
                _, killed = daemon.active_worker()
                os.kill(killed, signal.SIGKILL)
                wait_until_gone(killed)
                with suppress(ConnectionResetError):
                    assert read_all(connection) == b""
