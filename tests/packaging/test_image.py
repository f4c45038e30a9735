"""
The container image, with the limits of a small server and as few privileges as possible.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.containers import IMAGE, PROGRAMS, Podman, built
from tests.support.daemon import wait_until

SERVES = r"worker-\d+ serves"

STANDS_BY = r"worker-\d+ stands by"

pytestmark = [pytest.mark.long, pytest.mark.needs("root", *PROGRAMS), pytest.mark.once]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """
    Build the image.
    """
    with built() as podman:
        yield podman


def test_container_of_512_mib_makes_steps_on_uvloop_and_reaps_orphans(
    podman: Podman,
) -> None:
    """
    Each process has a numeric user that is not root; Kubernetes needs the number.

    The image has no compiler and no installer, and only the volume can be written.
    """
    with podman.service() as container:
        log = container.until(STANDS_BY)
        assert container.ask("/next?[1-1000]", "--request", "POST").startswith("1\n1\n2\n")
        assert container.execute(
            "cat /sys/fs/cgroup/memory.max"
            " || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
        ) == str(512 << 20)
        assert "EventLoopReactor" in log
        assert "uvloop" in container.execute("cat /proc/[0-9]*/maps")
        # The plugin cache was written during the build, and no process could write it now.
        assert "plugin cache" not in log
        _, *users = podman("top", container.name, "huser").split()
        assert set(users) == {"10001"}
        assert podman("inspect", "--format={{.Config.User}}", IMAGE) == "10001:10001"
        assert container.execute("command -v cc gcc pip pip3 || true") == ""
        assert container.execute("find / -xdev -writable -type f || true") == ""
        container.execute("sleep 0.1 < /dev/null > /dev/null 2>&1 & true")
        statuses = "cat /proc/[0-9]*/stat || true"
        wait_until(lambda: "(sleep)" not in container.execute(statuses), "it is gone")


def test_container_is_healthy_while_it_accepts_steps(podman: Podman) -> None:
    """
    The HEALTHCHECK passes if a step would be accepted, and fails without a response.
    """
    with podman.service() as container:
        container.until(STANDS_BY)
        check = ("healthcheck", "run", container.name)
        podman(*check)
        # The supervisor comes first, because it would replace the workers.
        podman("kill", "--signal=STOP", container.name)
        container.execute("kill -STOP $(cat /proc/1/task/1/children)")
        assert podman.attempt(*check).returncode == 1


def test_cursor_outlives_its_container(podman: Podman) -> None:
    """
    SIGTERM ends the container within Docker's timeout, with status 0.

    The next container with this volume continues, even after a SIGKILL of all processes.
    """
    with podman.volume() as volume:
        with podman.container(volume) as container:
            container.until(SERVES)
            container.ask("/next?[1-10]", "--request", "POST")
            assert container.stop() == 0
            before = container.log()
            podman("start", container.name)
            container.until(SERVES, before)
            assert container.ask("/next", "--request", "POST") == "89\n"
            podman("kill", container.name)
        with podman.container(volume) as container:
            container.until(SERVES)
            assert container.ask("/current") == "89\n"


def test_volume_of_root_with_the_group_of_the_service_is_usable(
    podman: Podman, tmp_path: Path
) -> None:
    """
    Kubernetes prepares volumes in this way.
    """
    os.chown(tmp_path, 0, 10001)
    tmp_path.chmod(0o2775)
    for value in ("1\n", "1\n"):
        with podman.container(str(tmp_path)) as container:
            container.until(SERVES)
            assert container.ask("/next", "--request", "POST") == value
