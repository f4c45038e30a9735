"""
Server-Sent Events over real sockets.
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

from tests.functional.test_wire import connect, request, worker
from tests.support.daemon import Daemon, read_all, until_gone

WATCH = b"GET /events HTTP/1.1"


@pytest.fixture(params=["pexservice", "pexservice-worker"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """
    Provide a daemon on uvloop's transports, and one on Twisted's own.
    """
    with Daemon(tmp_path, command=request.param) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log.read_text()


def read_until(connection: socket.socket, pattern: bytes) -> bytes:
    """
    Read up to C{pattern}, and return all that was read.
    """
    received = b""
    while not re.search(pattern, received):
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return received


def test_stream_sends_the_state_at_once_and_the_newest_at_each_move(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.sendall(request(WATCH))
        head = read_until(connection, rb"id: 0\n")
        assert b"\r\nContent-Type: text/event-stream\r\n" in head
        for _ in range(50):
            daemon.ask("/next", "POST")
        received = read_until(connection, rb"id: 50\n")
        # Other than one each, however slow the machine is.
        assert int(re.findall(rb"id: (\d+)\n", received)[0]) >= 1


def test_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection(
    daemon: Daemon,
) -> None:
    with connect(daemon) as connection:
        connection.sendall(request(b"GET /events HTTP/1.0", b"Last-Event-ID: 0"))
        received = read_until(connection, rb"retry: \d+\n\n")
        assert b"Transfer-Encoding" not in received
        assert received.endswith(b"\r\n\r\nretry: 500\n\n")
        daemon.ask("/next", "POST")
        event = read_until(connection, rb"\n\n")
        assert event.startswith(b'id: 1\ndata: {"position":1,')
        # A client that closes one side has gone.
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


def test_streams_end_properly_when_the_service_stops(daemon: Daemon) -> None:
    """
    The stop waits for none of them.
    """
    with connect(daemon) as connection:
        connection.sendall(request(WATCH))
        read_until(connection, rb"id: 0\n")
        daemon.process.terminate()
        assert read_all(connection).endswith(b"0\r\n\r\n")
        daemon.wait()


def test_next_worker_resumes_a_stream_that_ended_with_its_worker(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        for kill in range(3):
            with connect(daemon) as connection:
                connection.sendall(request(WATCH, b"Last-Event-ID: %d" % kill))
                received = read_until(connection, rb"retry: \d+\n\n")
                daemon.ask("/next", "POST")
                received += read_until(connection, rb"id: \d+\ndata: .*\n\n\r\n")
                assert re.findall(rb"id: (\d+)\n", received) == [b"%d" % (kill + 1)]
                killed = worker(daemon)
                os.kill(killed, signal.SIGKILL)
                until_gone(killed)
                with suppress(ConnectionResetError):
                    assert read_all(connection) == b""
