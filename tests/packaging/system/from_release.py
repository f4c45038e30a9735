"""
An upgrade from the last release, step by step.

The old supervisor starts new workers, and then a new one takes its place.

C{PYTHONPATH=src python3 -m tests.packaging.system.from_release PACKAGE}, as root where
the package of the last release is installed.
"""

from __future__ import annotations

import os
import re
import signal
import sys

from tests.packaging.system.installed import (
    SERVICE,
    SOCKET,
    assert_none_cut_off,
    load,
    run,
    service_log,
    serving,
    shown,
    supervisor,
    until_another_serves,
)
from tests.support.daemon import wait_until
from tests.support.installation import RELEASE


def installed_version() -> str:
    """
    Return the version of the package that is unpacked.
    """
    return run("dpkg-query", "--show", "-f", "${Version}", "pexservice")


def replaced() -> int:
    """
    Return how often the supervisor that runs now has replaced its workers.
    """
    return service_log().count("the workers are replaced")


def main(package: str) -> None:
    """
    Run the test.
    """
    assert installed_version() == RELEASE
    chief, since = supervisor(), shown("ActiveEnterTimestampMonotonic", SOCKET)
    worker = serving()
    with load() as clients:
        # The files are replaced, and nothing is restarted yet.
        run("dpkg", "--unpack", package)
        assert installed_version() != RELEASE
        assert supervisor() == chief
        run("systemctl", "reload", SERVICE)
        wait_until(lambda: replaced() == 1, "the workers are replaced")
        worker = until_another_serves(worker)
    assert_none_cut_off(clients)
    assert supervisor() == chief

    # The standby takes over, and there is another one; nobody is refused.
    with load():
        os.kill(worker, signal.SIGKILL)
        worker = until_another_serves(worker)
        wait_until(
            lambda: len(re.findall("stands by", service_log())) >= 3,
            "another one stands by",
        )
    assert supervisor() == chief

    # Now the new supervisor.
    with load() as clients:
        run("dpkg", "--configure", "pexservice")
    assert_none_cut_off(clients)
    assert supervisor() != chief
    assert int(shown("NRestarts")) == 0
    # The socket is the same all the time.
    assert shown("ActiveEnterTimestampMonotonic", SOCKET) == since


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except AssertionError:
        print(run("journalctl", "--no-pager", "--lines=60", f"--unit={SERVICE}"))
        raise
