"""
Tests of how the kernel is asked whether a client takes its answer.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import pytest

from pexservice.server.limits import count_delivered
from tests.support.daemon import TIMEOUT_SECONDS


def _pair(kind: str) -> tuple[socket.socket, socket.socket]:
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return listening.accept()[0], client


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_number_of_sent_bytes_changes_only_when_the_client_reads(kind: str) -> None:
    server, client = _pair(kind)
    with server, client:
        server.settimeout(0)
        stuck = -1
        while count_delivered(server) != stuck:
            # Bytes that are under way in the kernel settle first.
            stuck = count_delivered(server) or 0
            with suppress(BlockingIOError):
                while True:
                    server.send(bytes(65536))
        ends = time.monotonic() + TIMEOUT_SECONDS
        while count_delivered(server) == stuck:
            assert time.monotonic() < ends
            client.recv(65536)


def test_closed_or_missing_socket_has_no_number() -> None:
    closed = socket.socket()
    closed.close()
    assert count_delivered(None) is None
    assert count_delivered(closed) is None
