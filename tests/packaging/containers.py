"""
The container image, built only from packages of Debian and PyPI, and its containers.

This also works inside a container: without systemd, without a network for the containers,
and without leaving anything behind.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from attrs import frozen

from tests.support.commands import run_command
from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts

ROOT = Path(__file__).parents[2]

#: The programs that are needed to build and to run the image.
PROGRAMS = ("curl", "mmdebstrap", "podman", "runc")

IMAGE = "localhost/pexservice"

#: How long the download of packages may take, in seconds.
DOWNLOAD = 900

#: Debian's file of trusted certificates, to which this machine may have added its own.
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

#: The limits of the server that the image is meant for, and as few privileges as possible.
_LIMITS = (
    "--memory=512m",
    "--cpus=1",
    "--pids-limit=64",
    "--ulimit=nofile=20000:20000",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    # The tests need only the loopback interface.
    "--network=none",
)


_run = partial(run_command, timeout=DOWNLOAD)


@frozen
class Podman:
    """
    Podman with its own storage.

    @ivar path: the directory of the storage.
    """

    path: Path

    def __call__(self, *arguments: str, timeout: float = TIMEOUT_SECONDS) -> str:
        """
        Run podman, which must succeed, and return its standard output.
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
        # These options work without systemd.
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
        Build a base image of plain Debian, which has no Python, and the image from it.
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
            # The OCI format has no HEALTHCHECK.
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
        Provide the name of a new volume.
        """
        name = self("volume", "create")
        try:
            yield name
        finally:
            self("volume", "rm", name)

    @contextmanager
    def service(self) -> Iterator[Container]:
        """
        Start a new container with a new volume.
        """
        with self.volume() as volume, self.container(volume) as container:
            yield container

    @contextmanager
    def container(self, volume: str) -> Iterator[Container]:
        """
        Start a new container.

        @param volume: the name of a volume, or a directory.
        """
        name = self("run", "--detach", *_LIMITS, f"--volume={volume}:/data", IMAGE)
        try:
            yield Container(self, name)
        finally:
            self("rm", "--force", "--time=0", name)


@frozen
class Container:
    """
    A container of the image.

    @ivar name: podman's name for it.
    """

    podman: Podman
    name: str

    def inspect(self, field: str) -> str:
        """
        Return a property of the container, such as C{.State.Status}.
        """
        return self.podman("inspect", f"--format={{{{{field}}}}}", self.name)

    def log(self) -> str:
        return self.podman("logs", self.name)

    def execute(self, script: str) -> str:
        return self.podman("exec", self.name, "bash", "-c", script)

    def ask(self, path: str, *options: str) -> str:
        """
        Make one request inside the container's network, and return the body.
        """
        return _run(
            *("nsenter", f"--target={self.inspect('.State.Pid')}", "--net"),
            *("curl", "--silent", "--show-error", "--fail-with-body"),
            *("--max-time", str(TIMEOUT_SECONDS), *options),
            f"http://127.0.0.1:8081{path}",
        )

    def until(self, pattern: str, after: str = "") -> str:
        """
        Wait until the log has C{pattern} after C{after}, its earlier text; return the log.
        """
        log = ""
        for _ in poll_attempts():
            log = self.log()
            if re.search(pattern, log.removeprefix(after)):
                return log
        raise AssertionError(f"no {pattern!r} in the log:\n{log}")

    def stop(self) -> int:
        """
        Stop the container as Docker does: SIGTERM, and SIGKILL after 10 seconds.

        @return: the exit status, which is 137 after SIGKILL.
        """
        self.podman("stop", "--time=10", self.name)
        return int(self.inspect(".State.ExitCode"))


@contextmanager
def built() -> Iterator[Podman]:
    """
    Build the image, and remove everything afterwards.
    """
    # podman does not accept long paths.
    with tempfile.TemporaryDirectory(prefix="pex-", dir="/tmp") as path:
        podman = Podman(Path(path))
        try:
            podman.build()
            yield podman
        finally:
            # Without a reset, podman leaves the layers mounted.
            podman("system", "reset", "--force", timeout=DOWNLOAD)
