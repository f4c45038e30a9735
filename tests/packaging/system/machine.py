"""
A test machine: a container that boots its own systemd.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from tests.support.daemon import TIMEOUT_SECONDS, children, poll_attempts

#: How long a command in the machine may take, for example an autopkgtest; a safety net, in
#: seconds.
COMMAND_TIMEOUT_SECONDS = 20 * TIMEOUT_SECONDS

#: The exit status of the container if it wants to be started again.
REBOOT_STATUS = 133

_ENVIRONMENT = ("env", "-i", "LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")


class Machine:
    """
    A machine whose only network interface is its own loopback, so its ports are free.

    @ivar root: the directory tree of the machine.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._leader = 0
        self._console = root.with_suffix(".console")
        self._process = self._boot()

    def _boot(self) -> subprocess.Popen[bytes]:
        with self._console.open("wb") as console:
            return subprocess.Popen(
                [
                    *("systemd-nspawn", "--boot", "--quiet", "--private-network"),
                    # The host has no systemd that could register the machine.
                    *("--register=no", "--keep-unit"),
                    *("--machine", f"pexservice-{self.root.stat().st_ino}"),
                    *("--directory", str(self.root)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        try:
            self._until_it_runs()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _until_it_runs(self) -> None:
        """
        Wait until systemd in the machine has started all units.
        """
        for _ in poll_attempts():
            assert self._process.poll() is None, self._console.read_text()
            for pid in children(self._process.pid):
                self._leader = pid
                state = self.attempt("systemctl", "is-system-running", "--wait")
                if state.stdout == "running\n":
                    return
        raise AssertionError(self._console.read_text())

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """
        Run a command in the machine.
        """
        inside = ("nsenter", f"--target={self._leader}", "--all", "--wdns=/")
        return subprocess.run(
            [*inside, *_ENVIRONMENT, *command],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )

    def run(self, *command: str) -> str:
        """
        Run a command in the machine, which must succeed, and return its output.
        """
        finished = self.attempt(*command)
        assert finished.returncode == 0, (
            f"{command}: {finished.returncode}\n{finished.stdout}"
        )
        return finished.stdout

    def reboot(self) -> None:
        """
        Reboot the machine, and wait until it is up.
        """
        self.run("systemctl", "reboot")
        assert self._process.wait(TIMEOUT_SECONDS) == REBOOT_STATUS
        self._process = self._boot()
        self._until_it_runs()

    def _end(self) -> None:
        # For systemd-nspawn, SIGTERM is the power button.
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
