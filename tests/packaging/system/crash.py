"""
Crashes of the installed service.

Every process that is killed comes back, nobody is refused meanwhile, and no answered step
is lost.  Only a damaged store is left alone.

C{python3 -m tests.packaging.system.crash}, as root where the package is installed.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.packaging.system.installed import (
    SERVICE,
    SOCKET,
    cursor,
    load,
    run,
    serving,
    shown,
    supervisor,
    until_another_serves,
)
from tests.support.daemon import wait_until

STORE = Path("/var/lib/pexservice/data.mdb")


def killed_worker() -> None:
    """
    Kill the worker that serves: the standby takes over.
    """
    with load():
        worker = serving()
        os.kill(worker, signal.SIGKILL)
        until_another_serves(worker)


def stopped_worker() -> None:
    """
    Make the worker that serves hang: it is replaced, after the watchdog's 5 seconds.
    """
    with load():
        worker = serving()
        os.kill(worker, signal.SIGSTOP)
        until_another_serves(worker)


def killed_supervisor() -> None:
    """
    Kill the supervisor: systemd starts another.
    """
    restarts = int(shown("NRestarts"))
    with load():
        chief = supervisor()
        os.kill(chief, signal.SIGKILL)
        wait_until(lambda: supervisor() not in (0, chief), "systemd started another")
        serving()
    assert int(shown("NRestarts")) == restarts + 1


def damaged_store() -> None:
    """
    Damage the store.

    The service ends for good and does not touch the store.  It starts again when it is told
    to, with the whole store.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE, SOCKET)
    whole = STORE.read_bytes()
    damaged = b"\0" * 4096 * 4 + whole[4096 * 4 :]
    STORE.write_bytes(damaged)
    run("systemctl", "start", SERVICE, status=1)
    wait_until(lambda: shown("ActiveState", SOCKET) == "inactive", "the socket is closed")
    assert shown("ActiveState") == "failed"
    assert (shown("ExecMainStatus"), shown("NRestarts")) == ("78", "0")
    assert STORE.read_bytes() == damaged

    STORE.write_bytes(whole)
    run("systemctl", "start", SERVICE)
    assert cursor() == before


def main() -> None:
    """
    Run the test.
    """
    for scenario in (killed_worker, stopped_worker, killed_supervisor, damaged_store):
        print(scenario.__name__, flush=True)
        scenario()


if __name__ == "__main__":
    main()
