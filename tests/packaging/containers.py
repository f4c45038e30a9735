"""
The image, built from nothing but Debian's packages and PyPI's, and containers of it.

Made for a machine that is a container itself: no systemd, no network of the
containers' own, nothing that stays.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts

ROOT = Path(__file__).parents[2]

#: The programs that building and running the image take.
PROGRAMS = ("curl", "mmdebstrap", "podman", "runc")

IMAGE = "localhost/pexservice"

#: How long packages may take to come.  Seconds.
DOWNLOAD = 900

#: Where Debian has the certificates that this machine trusts, some of which may be
#: its own.
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

#: The limits of the server that the image is meant for, and as few rights as there can be.
_LIMITS = (
    "--memory=512m",
    "--cpus=1",
    "--pids-limit=64",
    "--ulimit=nofile=20000:20000",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    # With a loopback interface, which is all that the tests need.
    "--network=none",
)


@frozen
class Podman:
    """
    Podman, with its own storage.

    @ivar path: where it keeps everything.
    """

    path: Path

    def __call__(self, *arguments: str, timeout: float = TIMEOUT_SECONDS) -> str:
        """
        Run podman, which must end well.

        @return: what it writes to standard output.
        """
        done = self.attempt(*arguments, timeout=timeout)
        assert not done.returncode, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def attempt(
        self, *arguments: str, timeout: float = TIMEOUT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """
        Run podman, which may fail.
        """
        # For a machine without systemd.
        command = ("podman", "--runtime=runc", "--cgroup-manager=cgroupfs")
        kept = [
            f"--{option}={self.path / option}" for option in ("root", "runroot", "tmpdir")
        ]
        return subprocess.run(
            [*command, *kept, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
        )

    def build(self) -> None:
        """
        Build a base of plain Debian, which has no Python, and the image from it.
        """
        base, settings = self.path / "base.tar", self.path / "pip.conf"
        _run("mmdebstrap", "--quiet", "--variant=apt", "trixie", str(base))
        self("import", "--quiet", str(base), "localhost/base", timeout=DOWNLOAD)
        base.unlink()
        settings.write_text("[global]\ncert = /run/certificates\n")
        self(
            "build",
            "--isolation=chroot",
            "--network=host",
            "--ulimit=nofile=20000:20000",
            "--ulimit=nproc=20000:20000",
            # The other format has no HEALTHCHECK.
            "--format=docker",
            f"--volume={settings}:/etc/pip.conf:ro",
            f"--volume={_CERTIFICATES}:/run/certificates:ro",
            "--build-arg=BASE=localhost/base",
            f"--tag={IMAGE}",
            str(ROOT),
            timeout=DOWNLOAD,
        )

    @contextmanager
    def volume(self) -> Iterator[str]:
        """
        Provide a new volume.

        @return: its name.
        """
        name = self("volume", "create")
        try:
            yield name
        finally:
            self("volume", "rm", name)

    @contextmanager
    def container(self, volume: str, *options: str) -> Iterator[Container]:
        """
        Provide a new container, which has been started.

        @param volume: the name of a volume, or a directory.
        """
        name = self(
            "run", "--detach", *_LIMITS, f"--volume={volume}:/data", IMAGE, *options
        )
        try:
            yield Container(self, name)
        finally:
            self("rm", "--force", "--time=0", name)


@frozen
class Container:
    """
    A container of the image.

    @ivar name: podman's name of it.
    """

    podman: Podman
    name: str

    def inspect(self, field: str) -> str:
        """
        Return a property of the container.

        @param field: as C{.State.Status}.
        """
        return self.podman("inspect", f"--format={{{{{field}}}}}", self.name)

    def log(self) -> str:
        """
        Return what the container has written to standard output.
        """
        return self.podman("logs", self.name)

    def execute(self, script: str) -> str:
        """
        Run a shell script in the container.
        """
        return self.podman("exec", self.name, "bash", "-c", script)

    def ask(self, path: str, *options: str) -> str:
        """
        Make one request, from inside the container's network.

        @return: the body.
        """
        asking = [
            "--max-time",
            str(TIMEOUT_SECONDS),
            *options,
            f"http://127.0.0.1:8081{path}",
        ]
        return _run(
            "nsenter",
            f"--target={self.inspect('.State.Pid')}",
            "--net",
            *("curl", "--silent", "--show-error", "--fail-with-body"),
            *asking,
        )

    def until(self, pattern: str, after: str = "") -> str:
        """
        Wait until the container's log has C{pattern} after the text C{after}.

        C{after} is all that the log had said at an earlier time.

        @return: the log.
        """
        log = ""
        for _ in poll_attempts():
            log = self.log()
            if re.search(pattern, log.removeprefix(after)):
                return log
        raise AssertionError(f"no {pattern!r} in the log:\n{log}")

    def until_ended(self) -> int:
        """
        Wait until the container ends by itself.

        @return: its exit status.
        """
        return int(self.podman("wait", self.name))

    def stop(self, grace: int = 10) -> int:
        """
        Stop the container as Docker does, whose grace is ten seconds; then it kills.

        @return: the exit status, of which 137 is SIGKILL's.
        """
        self.podman("stop", f"--time={grace}", self.name)
        return int(self.inspect(".State.ExitCode"))


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD,
    )
    assert not done.returncode, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def built() -> Iterator[Podman]:
    """
    Provide podman with the image, in a place that is removed afterwards.
    """
    # podman takes no long names.
    with tempfile.TemporaryDirectory(prefix="pex-", dir="/tmp") as path:
        podman = Podman(Path(path))
        try:
            podman.build()
            yield podman
        finally:
            # Without a reset podman leaves the layers mounted.
            podman("system", "reset", "--force", timeout=DOWNLOAD)
