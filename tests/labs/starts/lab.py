"""
Starts of a service that was killed under clients, each disturbed at a random moment.

The disturbance is a SIGHUP, the death of the child that verifies the store or of a worker,
or the death of the supervisor.

C{python -m tests.labs.starts.lab [STARTS]} is the long form; the test calls L{starts} with
fewer.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from tests.labs.failover.lab import JOURNAL
from tests.support.clients import Client, check, running
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, children, wait_until_gone
from tests.support.evidence import Evidence, record
from tests.support.ports import held_ports

CLIENTS = 8

#: The latest moment of a start at which something comes in its way, and how long the load
#: goes on before the next kill.  Seconds.
LATEST = 1.5
LOAD = (0.1, 0.4)


def _hang_up(pid: int) -> None:
    os.kill(pid, signal.SIGHUP)


def _kill_child(pid: int) -> None:
    """
    Kill the youngest child: the check, the process that verifies for it, or a worker.
    """
    for child in sorted(children(pid))[-1:]:
        for grandchild in children(child):
            os.kill(grandchild, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    # Otherwise the process may seem to run for a moment more.
    wait_until_gone(pid)


#: The troubles that come in the way, by their names.
TROUBLES: dict[str, Callable[[int], None]] = {
    "SIGHUP": _hang_up,
    "a child killed": _kill_child,
    "the supervisor killed": _kill,
}


@frozen
class Result:
    """
    The figures of what was done, and of the clients' responses.

    @ivar troubles: by name, how often.
    @ivar starts: how many it took, with those that were ended.
    @ivar acknowledged: steps that were answered.
    @ivar made_steps: steps in the history.
    """

    troubles: Counter[str]
    starts: int
    acknowledged: int
    made_steps: int


class _Trouble(threading.Thread):
    """
    A trouble that comes in the way of a start in C{path}.

    It comes C{moment} seconds after the begin of the start.
    """

    def __init__(self, path: Path, name: str, moment: float) -> None:
        super().__init__(daemon=True)
        self._path, self._name, self._moment = path, name, moment

    def run(self) -> None:
        """
        Wait for the moment, and make the trouble.
        """
        time.sleep(self._moment)
        for pid in children(os.getpid()):
            with suppress(ProcessLookupError, FileNotFoundError):
                if Path(f"/proc/{pid}/cwd").readlink() == self._path:
                    TROUBLES[self._name](pid)


def _start(path: Path, port: int) -> tuple[Daemon, int]:
    """
    Start the service, again if it does not come to serve.

    @return: the daemon, and how many starts it took.
    """
    for tried in range(1, 6):
        # Before our first line, a SIGHUP ends a process; so does SIGKILL at any time.
        with suppress(AssertionError):
            listen = f"tcp:{port}:interface=127.0.0.1"
            return Daemon(path, "--listen", listen, "--journal", JOURNAL), tried
    raise AssertionError("it does not start:\n" + (path / "log").read_text())


def starts(path: Path, count: int) -> Result:
    """
    Kill the service under clients, and start it again with trouble in the way.

    @param count: how often it is killed and started again.
    @raise AssertionError: an acknowledged step is lost, or was made twice.
    """
    path = path.resolve()
    chance = random.Random(count)  # noqa: S311 nothing secret
    troubles: Counter[str] = Counter()
    begun = 0
    with held_ports(1) as (port,):
        daemon, _ = _start(path, port)
        clients = [Client(n, port, fresh=n % 4 < 2) for n in range(CLIENTS)]
        with running(clients):
            for number in range(count):
                time.sleep(chance.uniform(*LOAD))
                daemon.process.kill()
                daemon.process.wait()
                name = [*TROUBLES][number % len(TROUBLES)]
                trouble = _Trouble(path, name, chance.uniform(0, LATEST))
                trouble.start()
                daemon, tried = _start(path, port)
                trouble.join(TIMEOUT_SECONDS)
                if daemon.process.poll() is not None:
                    # The disturbance happened after the start was complete.
                    daemon, more = _start(path, port)
                    tried += more
                troubles[name] += 1
                begun += tried
            time.sleep(chance.uniform(*LOAD))
        acknowledged, made_steps = check(daemon, clients)
        daemon.stop()
    return Result(troubles, begun, acknowledged, made_steps)


def main() -> None:
    """
    Disturb a hundred starts, and record the figures.
    """
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as path:
        result = starts(Path(path), count)
    print(result)
    record(
        Evidence(
            name="starts",
            promise="A start continues after every disturbance.",
            size=count,
            unit="disturbed starts",
            result=f"SIGHUP, a killed child or a killed supervisor at a random moment of"
            f" each start, under clients: {result.acknowledged:,} steps acknowledged, none"
            " lost or made twice",
            command="make starts",
        )
    )


if __name__ == "__main__":
    main()
