"""
C{kill -9} under load.

The clients record each response.  Each acknowledged step must be in the history, once, as
its response described it.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.support.clients import Client, check, highest, running, until_acknowledged
from tests.support.daemon import WORKER, Daemon
from tests.support.forms import amount
from tests.support.ports import held_ports

KILLS = amount(short=2, long=100)
CLIENTS = 32

#: The load runs before each kill for a random time between these.
LOAD_SECONDS = (0.02, 0.3)

#: More steps than the test can make.
JOURNAL = "10000000"


def test_kills_lose_no_acknowledged_step(tmp_path: Path) -> None:
    """
    The history contains each acknowledged step, and leads to the state of the cursor.

    No two steps have the same revision.
    """
    moments = random.Random(1)  # noqa: S311 nothing secret
    with held_ports(1) as (port,):
        listen = f"tcp:{port}:interface=127.0.0.1"
        options = ("--journal", JOURNAL, "--listen", listen)
        daemon = Daemon(tmp_path, *options, command=WORKER)
        clients = [Client(number, port) for number in range(CLIENTS)]
        try:
            with running(clients):
                for _ in range(KILLS):
                    until_acknowledged(clients, 50)
                    time.sleep(moments.uniform(*LOAD_SECONDS))
                    daemon.kill()
                    acknowledged = highest(clients)
                    daemon = Daemon(tmp_path, *options, command=WORKER)
                    assert daemon.revision() >= acknowledged
            acknowledged_steps, made_steps = check(daemon, clients)
        finally:
            daemon.kill()

    # At each kill, each client may lose the response to one step.
    assert made_steps - acknowledged_steps <= KILLS * CLIENTS
    # After so many kills, at least one client has repeated a step that was made.
    assert KILLS < 100 or any(client.replayed for client in clients)
