"""
Crashes of the installed service.

Every killed process is replaced, no connection is refused, and no acknowledged step is
lost.  A damaged store ends the service.

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
    run_scenarios,
    serving,
    supervisor,
    unit_property,
    until_another_serves,
    until_inactive,
)
from tests.support.daemon import wait_until

STORE = Path("/var/lib/pexservice/data.mdb")


def killed_worker() -> None:
    """
    Kill the active worker: the standby must take over, and the other processes must stay.
    """
    assert unit_property("OOMPolicy") == "continue"
    restarts = unit_property("NRestarts")
    with load():
        worker = serving()
        os.kill(worker, signal.SIGKILL)
        until_another_serves(worker)
    assert unit_property("NRestarts") == restarts


def stopped_worker() -> None:
    """
    Stop the active worker: the watchdog must replace it after 5 seconds.
    """
    with load():
        worker = serving()
        os.kill(worker, signal.SIGSTOP)
        until_another_serves(worker)


def killed_supervisor() -> None:
    """
    Kill the supervisor: systemd must start another one.
    """
    restarts = int(unit_property("NRestarts"))
    with load():
        supervisor_pid = supervisor()
        os.kill(supervisor_pid, signal.SIGKILL)
        wait_until(
            lambda: supervisor() not in (0, supervisor_pid),
            "systemd has started another supervisor",
        )
        serving()
    assert int(unit_property("NRestarts")) == restarts + 1


def damaged_store() -> None:
    """
    Damage the store.

    The service must end, must not be restarted, and must not change the store.  With the
    original store, an operator can start it again.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE, SOCKET)
    whole = STORE.read_bytes()
    damaged = b"\0" * 4096 * 4 + whole[4096 * 4 :]
    STORE.write_bytes(damaged)
    run("systemctl", "start", SERVICE, status=1)
    until_inactive()
    assert unit_property("ActiveState") == "failed"
    assert (unit_property("ExecMainStatus"), unit_property("NRestarts")) == ("78", "0")
    assert STORE.read_bytes() == damaged

    STORE.write_bytes(whole)
    run("systemctl", "start", SERVICE)
    assert cursor() == before


def main() -> None:
    run_scenarios(killed_worker, stopped_worker, killed_supervisor, damaged_store)


if __name__ == "__main__":
    main()
