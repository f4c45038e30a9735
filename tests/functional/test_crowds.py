"""
More connections than there is room for.

The tests look at the choice of the connections to be closed, and at the service to the
others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.crowd import Crowd, certified, honest
from tests.support.daemon import Daemon, children

#: Requests of the honest client, each on its own connection.
TRIES = 25


@pytest.mark.parametrize("piece", [b"", b"G", b"GET /current HTTP/1.1\r\nHost: x\r\n"])
def test_one_address_cannot_lock_others_out(tmp_path: Path, piece: bytes) -> None:
    """
    Clients of other addresses are served each time next to a crowd from one address.

    The crowd has twice as many connections as there is room for.  Their requests never
    arrive, and they come again when they are closed.
    """
    with Daemon(tmp_path, "--max-connections", "100", "--standby", "0") as daemon:
        workers = children(daemon.process.pid)
        with Crowd(daemon.port, 200, piece) as crowd:
            assert len([*honest(daemon.port, TRIES, None)]) == TRIES
            assert crowd.connected_count >= 200
        assert children(daemon.process.pid) == workers


def test_connections_without_a_tls_handshake_do_not_stop_the_worker(tmp_path: Path) -> None:
    """
    They hold file descriptors too. Other clients are served meanwhile.
    """
    options, context = certified(tmp_path)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -n 300\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Daemon(tmp_path, *options, "--standby", "0", python=str(python)) as daemon:
        workers = children(daemon.process.pid)
        with Crowd(daemon.port, 400, b""):
            assert len([*honest(daemon.port, TRIES, context)]) == TRIES
        assert children(daemon.process.pid) == workers
