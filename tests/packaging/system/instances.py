"""
A second instance of the service, C{pexservice@NAME}, as docs/operations.md describes it.

C{python3 -m tests.packaging.system.instances}, as root where the package is installed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.packaging.system.installed import (
    SERVICE,
    ask,
    cursor,
    run,
    run_as,
    run_scenarios,
    unit_property,
)

CONFIG = Path("/etc/pexservice/blue.toml")
STORE = Path("/var/lib/pexservice@blue")
SOCKET = Path("/run/pexservice/blue.sock")
BACKUPS = Path("/var/backups/pexservice/blue")
UNIT = "pexservice@blue.service"


def step(user: str = "root", status: int = 0) -> str:
    """
    Make a step of the instance's cursor, and return the response.
    """
    command = ("curl", "--silent", "--request", "POST", "--unix-socket", str(SOCKET))
    return run_as(user, *command, "http://blue/next", status=status)


def has_its_own_cursor() -> None:
    """
    Make steps of the instance, and check that the cursor of the service does not change.
    """
    ask("/next", "POST")
    before = cursor()
    assert [step() for _ in range(3)] == ["1\n", "1\n", "2\n"]
    assert cursor() == before
    run("systemctl", "restart", UNIT)
    assert step() == "3\n"
    run("systemctl", "reload", UNIT)
    assert step() == "5\n"
    # curl's exit status for a failed connection.
    step("nobody", status=7)


def is_backed_up_by_its_own_timer() -> None:
    """
    Back the instance up, and check that the backup and the metrics belong to it.
    """
    run("systemctl", "start", "pexservice-backup@blue.service")
    (backup,) = BACKUPS.iterdir()
    assert "position 5" in run("pexctl", "verify", str(backup))
    metrics = Path("/var/lib/pexservice-backup/pexservice_backup@blue.prom").read_text()
    assert f'pexservice_backup_revision{{store="{STORE}"}} 5.0\n' in metrics


def stops_with_its_socket_and_leaves_the_service_alone() -> None:
    """
    Stop the instance: its clients must be refused, and the service must stay active.
    """
    run("systemctl", "stop", UNIT)
    step(status=7)
    assert unit_property("ActiveState", "pexservice@blue.socket") == "inactive"
    assert unit_property("ActiveState") == "active"


def main() -> None:
    own = Path("/etc/pexservice/pexservice.toml").read_text()
    CONFIG.write_text(own.replace("/var/lib/pexservice", str(STORE)))
    install = ("install", "-d", "-o", "pexservice", "-g", "pexservice", "-m", "0700")
    run(*install, str(STORE), str(BACKUPS))
    for verb in ("create", "check"):
        run_as("pexservice", "pexctl", verb, "--config", str(CONFIG))
    run("systemctl", "enable", "--now", UNIT, "pexservice-backup@blue.timer")
    try:
        run_scenarios(
            has_its_own_cursor,
            is_backed_up_by_its_own_timer,
            stops_with_its_socket_and_leaves_the_service_alone,
        )
    finally:
        run("systemctl", "disable", "--now", UNIT, "pexservice-backup@blue.timer")
        CONFIG.unlink()
        for directory in (STORE, BACKUPS):
            shutil.rmtree(directory)
    assert unit_property("ActiveState", SERVICE) == "active"


if __name__ == "__main__":
    main()
