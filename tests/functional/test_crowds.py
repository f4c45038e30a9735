"""
More connections than the service may keep: which ones it closes, and who is still served.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.crowd import Crowd, certified, honest, limited_python
from tests.support.daemon import WORKER, Daemon

#: The honest client sends this many requests, each on its own connection.
TRIES = 25


def test_one_address_cannot_lock_others_out(tmp_path: Path) -> None:
    """
    A crowd at one address has twice as many connections as the limit allows.

    Its requests stay incomplete, and it opens a new connection for each one that is closed.
    Every request from another address gets its response.
    """
    with Daemon(tmp_path, "--max-connections", "100", command=WORKER) as daemon:
        for piece in (b"", b"G", b"GET /current HTTP/1.1\r\nHost: x\r\n"):
            with Crowd(daemon.port, 200, piece) as crowd:
                assert len([*honest(daemon.port, TRIES, None)]) == TRIES
                assert crowd.connected_count >= 200
        assert daemon.process.poll() is None


def test_connections_without_a_tls_handshake_do_not_stop_the_worker(tmp_path: Path) -> None:
    """
    Such connections hold file descriptors.  Other clients are served meanwhile.
    """
    options, context = certified(tmp_path)
    python = limited_python(tmp_path, 300)
    with Daemon(tmp_path, *options, command=WORKER, python=python) as daemon:
        assert "--max-connections 10000: the limit of open files" in daemon.log.read_text()
        with Crowd(daemon.port, 400, b""):
            assert len([*honest(daemon.port, TRIES, context)]) == TRIES
        assert daemon.process.poll() is None
