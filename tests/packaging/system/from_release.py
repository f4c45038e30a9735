"""
An upgrade from the last release in two steps.

The old supervisor starts workers of the new version, and then a new supervisor replaces it.

C{PYTHONPATH=src python3 -m tests.packaging.system.from_release PACKAGE}, as root where the
package of the last release is installed.
"""

from __future__ import annotations

import os
import re
import signal
import sys

from tests.packaging.system.installed import (
    SERVICE,
    SOCKET,
    load,
    run,
    service_log,
    serving,
    supervisor,
    undisturbed_load,
    unit_property,
    until_another_serves,
)
from tests.support.daemon import wait_until
from tests.support.installation import RELEASE


def installed_version() -> str:
    """
    Return the version of the unpacked package.
    """
    return run("dpkg-query", "--show", "-f", "${Version}", "pexservice")


def main(package: str) -> None:
    assert installed_version() == RELEASE
    supervisor_pid = supervisor()
    socket_opened_at = unit_property("ActiveEnterTimestampMonotonic", SOCKET)
    worker = serving()
    with undisturbed_load():
        # dpkg replaces the files, and restarts nothing yet.
        run("dpkg", "--unpack", package)
        assert installed_version() != RELEASE
        assert supervisor() == supervisor_pid
        run("systemctl", "reload", SERVICE)
        wait_until(lambda: "the workers are replaced" in service_log(), "the reload ends")
        worker = until_another_serves(worker)
    assert supervisor() == supervisor_pid

    # The standby takes over, another one starts, and no connection is refused.
    with load():
        os.kill(worker, signal.SIGKILL)
        worker = until_another_serves(worker)
        wait_until(
            lambda: len(re.findall("stands by", service_log())) >= 3,
            "another one stands by",
        )
    assert supervisor() == supervisor_pid

    # Now the supervisor is replaced.
    with undisturbed_load():
        run("dpkg", "--configure", "pexservice")
    assert supervisor() != supervisor_pid
    assert int(unit_property("NRestarts")) == 0
    # The socket was open all the time.
    assert unit_property("ActiveEnterTimestampMonotonic", SOCKET) == socket_opened_at


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except AssertionError:
        print(run("journalctl", "--no-pager", "--lines=60", f"--unit={SERVICE}"))
        raise
