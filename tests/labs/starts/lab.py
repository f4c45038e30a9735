"""
Starts of a service that was killed under load, each disturbed at a random moment.

The disturbance is a SIGHUP, a kill of the process that verifies the store or of a worker,
or a kill of the supervisor.

C{python -m tests.labs.starts.lab [STARTS]} is the long form; the test calls L{starts} with
fewer starts.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.labs.failover.lab import JOURNAL
from tests.support.clients import Client, check, running
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, children, wait_until_gone
from tests.support.evidence import record, run_lab
from tests.support.ports import held_ports

CLIENTS = 8

#: The latest moment of a disturbance after the begin of a start, and the shortest and the
#: longest time of load before the next kill.
MAX_DELAY_SECONDS = 1.5
LOAD_SECONDS = (0.1, 0.4)


def _kill_child(pid: int) -> None:
    """
    Kill the youngest child and its children: a worker, or a process that verifies.
    """
    for child in sorted(children(pid))[-1:]:
        for grandchild in children(child):
            os.kill(grandchild, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    # A killed process may seem to run for a moment.
    wait_until_gone(pid)


#: The disturbances by name.
DISTURBANCES: dict[str, Callable[[int], None]] = {
    "SIGHUP": lambda pid: os.kill(pid, signal.SIGHUP),
    "a child killed": _kill_child,
    "the supervisor killed": _kill,
}


def _disturb(path: Path, name: str) -> None:
    """
    Disturb the start of the service in C{path}.
    """
    for pid in children(os.getpid()):
        with suppress(ProcessLookupError, FileNotFoundError):
            if Path(f"/proc/{pid}/cwd").readlink() == path:
                DISTURBANCES[name](pid)


def _start(path: Path, port: int) -> Daemon:
    """
    Start the service, again if the start fails.
    """
    for _ in range(5):
        # A start may fail: SIGHUP ends a process that has not yet set its handler, and so
        # does SIGKILL.
        with suppress(AssertionError):
            listen = f"tcp:{port}:interface=127.0.0.1"
            return Daemon(path, "--listen", listen, "--journal", JOURNAL)
    raise AssertionError("the service does not start:\n" + (path / "log").read_text())


def starts(path: Path, count: int) -> tuple[Counter[str], int]:
    """
    Kill the service under load, start it again, and disturb each start.

    @param count: how often the service is killed.
    @return: how often each disturbance was caused, and how many steps got a response.
    @raise AssertionError: an acknowledged step was lost or made twice.
    """
    path = path.resolve()
    rng = random.Random(count)  # noqa: S311 nothing secret
    disturbances: Counter[str] = Counter()
    with held_ports(1) as (port,):
        daemon = _start(path, port)
        clients = [Client(n, port, fresh=n % 4 < 2) for n in range(CLIENTS)]
        with running(clients):
            for number in range(count):
                time.sleep(rng.uniform(*LOAD_SECONDS))
                daemon.kill_supervisor()
                name = [*DISTURBANCES][number % len(DISTURBANCES)]
                delay = rng.uniform(0, MAX_DELAY_SECONDS)
                disturbance = threading.Timer(delay, _disturb, (path, name))
                disturbance.daemon = True
                disturbance.start()
                daemon = _start(path, port)
                disturbance.join(TIMEOUT_SECONDS)
                if daemon.process.poll() is not None:
                    # The disturbance happened after the end of the start.
                    daemon = _start(path, port)
                disturbances[name] += 1
            time.sleep(rng.uniform(*LOAD_SECONDS))
        acknowledged, _ = check(daemon, clients)
        daemon.stop()
    record(
        "starts",
        promise="A start continues after every disturbance.",
        size=count,
        unit="disturbed starts",
        result=f"SIGHUP, a killed child or a killed supervisor at a random moment of"
        f" each start, under clients: {acknowledged:,} steps acknowledged, none"
        " lost or made twice",
        command="make starts",
    )
    return disturbances, acknowledged


if __name__ == "__main__":
    run_lab(starts, 100)
