"""
Reloads and restarts, which nobody notices, and stops and starts, which keep the cursor.

The options of C{/etc/default/pexservice} still count, and the address is the socket unit's.

C{python3 -m tests.packaging.system.restarts}, as root where the package is installed.
"""

from __future__ import annotations

import shutil
import socket
import stat
from pathlib import Path

from tests.packaging.system.installed import (
    SERVICE,
    ask,
    assert_none_cut_off,
    cursor,
    load,
    move_socket,
    run,
    service_log,
    serving,
    shown,
    supervisor,
)
from tests.support.daemon import TIMEOUT_SECONDS, read_all

OPTIONS = Path("/etc/default/pexservice")


def reload() -> None:
    """
    Reload the service, which nobody notices.

    The workers are others, and the supervisor is the same.
    """
    chief, worker = supervisor(), serving()
    with load() as clients:
        run("systemctl", "reload", SERVICE)
        assert "the workers are replaced" in service_log()
    assert_none_cut_off(clients)
    assert supervisor() == chief
    assert serving() != worker


def restart() -> None:
    """
    Restart the service: all processes are others, and nobody notices but for a pause.
    """
    chief = supervisor()
    with load() as clients:
        run("systemctl", "restart", SERVICE)
    assert_none_cut_off(clients)
    assert supervisor() != chief


def stop() -> None:
    """
    Stop the service, and start it: it goes on where it was.
    """
    before = cursor()
    run("systemctl", "stop", SERVICE)
    assert shown("Result") == "success"
    # Not what it was while the service ran.
    assert shown("StatusText") == "stopped"
    assert supervisor() == 0
    run("systemctl", "start", SERVICE)
    assert cursor() == before
    assert supervisor() != 0


def options() -> None:
    """
    Set options in the file from before there was a configuration file.

    They are read when the service starts, and win.
    """
    OPTIONS.write_text('PEXSERVICE_OPTIONS="--journal 3 --standby 0"\n')
    try:
        run("systemctl", "restart", SERVICE)
        for _ in range(5):
            ask("/next", "POST")
        assert len(ask("/history")[1].splitlines()) == 3
    finally:
        OPTIONS.unlink()
    run("systemctl", "restart", SERVICE)


def elsewhere() -> None:
    """
    Move the socket.

    The address is the socket unit's, and a Unix socket keeps the mode it has there.
    """
    there = Path("/run/pexservice-test.sock")
    dropin = Path("/run/systemd/system/pexservice.socket.d/test.conf")
    dropin.parent.mkdir(parents=True)
    dropin.write_text(f"[Socket]\nListenStream=\nListenStream={there}\nSocketMode=0660\n")
    try:
        move_socket()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(str(there))
            connection.sendall(
                b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        assert stat.filemode(there.stat().st_mode) == "srw-rw----"
    finally:
        shutil.rmtree(dropin.parent)
        move_socket()
    there.unlink()
    assert ask("/livez")[0].status == 200


def main() -> None:
    """
    Run the test.
    """
    for scenario in (reload, restart, stop, options, elsewhere):
        print(scenario.__name__, flush=True)
        scenario()


if __name__ == "__main__":
    main()
