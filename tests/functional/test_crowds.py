"""
More connections than there is room for: whose are closed, and that others are served.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from threading import Event, Thread
from typing import Self

import pytest
import trustme

from tests.functional.test_keepalive import both_are_up
from tests.support.daemon import PATIENCE, Daemon, children

#: An address of this machine that is not the honest client's.
ATTACKER = "127.0.0.2"

#: Requests of the honest client, each on a connection of its own.
TRIES = 25


class Crowd:
    """
    Connections from one address that send a piece of a request, or nothing, and come
    again as soon as they are closed.
    """

    def __init__(self, port: int, count: int, piece: bytes) -> None:
        self._address = ("127.0.0.1", port)
        self._count, self._piece = count, piece
        self._stopped = Event()
        self.standing = Event()
        self.made = 0
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.standing.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with ExitStack() as stack:
            held: list[socket.socket] = []
            while not self._stopped.is_set():
                held = [each for each in held if not _is_closed(each)]
                for _ in range(min(50, self._count - len(held))):
                    made = stack.enter_context(socket.socket())
                    made.bind((ATTACKER, 0))
                    made.settimeout(PATIENCE)
                    made.connect(self._address)
                    made.sendall(self._piece)
                    made.setblocking(False)  # noqa: FBT003 its only argument
                    held.append(made)
                    self.made += 1
                if self.made >= self._count:
                    self.standing.set()
                self._stopped.wait(0.05)


def _is_closed(connection: socket.socket) -> bool:
    """
    Return whether the server has closed C{connection}, and close our end too then.
    """
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True


@pytest.fixture
def authority() -> trustme.CA:
    """
    Make a certificate authority.
    """
    return trustme.CA()


def _served(daemon: Daemon, context: ssl.SSLContext | None) -> Iterator[int]:
    """
    Yield the statuses of the honest client's requests.
    """
    for _ in range(TRIES):
        if context is None:
            connection = HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
        else:
            connection = HTTPSConnection(
                "127.0.0.1", daemon.port, timeout=PATIENCE, context=context
            )
        connection.request("GET", "/current")
        yield connection.getresponse().status
        connection.close()


@pytest.mark.parametrize("piece", [b"", b"G", b"GET /current HTTP/1.1\r\nHost: x\r\n"])
def test_one_address_cannot_lock_others_out(tmp_path: Path, piece: bytes) -> None:
    """
    Beside twice as many connections of one address as there is room for, whose requests
    never arrive and that come again when they are closed, others are served each time.
    """
    with (
        Daemon(tmp_path, "--max-connections", "100") as daemon,
        Crowd(daemon.port, 200, piece) as crowd,
    ):
        assert list(_served(daemon, None)) == [200] * TRIES
        assert crowd.made >= 200
        assert len(children(daemon.process.pid)) == 2


def test_handshakes_count(tmp_path: Path, authority: trustme.CA) -> None:
    """
    Connections that never agree on TLS hold descriptors too: more of them than there
    are descriptors end no worker, and others are served.
    """
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    issued = authority.issue_cert("127.0.0.1")
    chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -n 300\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    options = ("--tls-certificate", str(chain), "--tls-key", str(key))
    with Daemon(tmp_path, *options, python=str(python)) as daemon:
        both_are_up(daemon)
        workers = children(daemon.process.pid)
        with Crowd(daemon.port, 400, b""):
            assert list(_served(daemon, context)) == [200] * TRIES
        assert children(daemon.process.pid) == workers
