"""
Crashes of the installed service.

Every killed process is replaced, no connection is refused, and no acknowledged step is
lost.

C{python3 -m tests.packaging.system.crash}, as root where the package is installed.
"""

from __future__ import annotations

import os
import signal

from tests.packaging.system.installed import (
    load,
    run_scenarios,
    serving,
    supervisor,
    unit_property,
    until_another_serves,
)
from tests.support.daemon import wait_until


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


def main() -> None:
    run_scenarios(killed_worker, killed_supervisor)


if __name__ == "__main__":
    main()
