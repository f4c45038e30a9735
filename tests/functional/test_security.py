"""
Which files requests reach.

The requests are all attacks of the fault-injection tests.  Their responses are checked in
L{tests.functional.test_wire}.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import DATA_FILE
from tests.functional.test_keepalive import STORE
from tests.labs.attacks.attacking import exchange, in_one_piece
from tests.labs.attacks.lab import COMPLETE
from tests.support.daemon import WORKER, Daemon
from tests.support.strace import Tracer


def attack(daemon: Daemon) -> None:
    for attack in COMPLETE:
        exchange(daemon.port, attack, in_one_piece(attack))


@pytest.mark.needs("strace")
def test_requests_open_no_file_but_the_stores(tmp_path: Path) -> None:
    trace, place = tmp_path / "trace", tmp_path / "daemon"
    place.mkdir()
    store = place / STORE
    with Daemon(place, command=WORKER) as daemon:
        # The first requests import modules.
        attack(daemon)
        before = {path.name for path in place.iterdir()}
        with Tracer(daemon.process.pid, "-y", "-e", "trace=%file", output=trace):
            attack(daemon)
        assert {path.name for path in place.iterdir()} == before
    allowed = (str(store), "/etc/localtime", "/proc/")
    touched = re.findall(r'"([^"]+)"', trace.read_text())
    assert not [path for path in touched if not path.startswith(allowed)], touched
    assert {path.name for path in store.iterdir()} <= {DATA_FILE, "lock.mdb", "newest"}
