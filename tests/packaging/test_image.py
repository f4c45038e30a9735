"""
The container image, with the limits of a small server and as few privileges as possible.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.containers import IMAGE, PROGRAMS, Podman, built
from tests.support.daemon import wait_until

SERVES = r"(worker-\d+) serves"

STANDS_BY = r"worker-\d+ stands by"

STEPS = 1000

pytestmark = [pytest.mark.long, pytest.mark.needs("root", *PROGRAMS), pytest.mark.once]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """
    Build the image.
    """
    with built() as podman:
        yield podman


def test_every_endpoint_responds_in_a_container_of_512_mib(podman: Podman) -> None:
    """
    The service uses uvloop and one processor.
    """
    with podman.service() as container:
        log = container.until(SERVES)
        assert container.ask("/next", "--request", "POST") == "1\n"
        container.ask(f"/next?[1-{STEPS}]", "--request", "POST")
        assert container.ask("/previous", "--request", "POST").startswith("434665576")
        assert container.ask("/current").startswith("434665576")
        assert f"revision {STEPS + 2} previous" in container.ask("/history?limit=1")
        assert container.ask("/livez") == container.ask("/readyz") == "ok\n"
        assert container.ask("/reset", "--request", "POST") == "0\n"
        assert container.execute(
            "cat /sys/fs/cgroup/memory.max"
            " || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
        ) == str(512 << 20)
        assert "EventLoopReactor" in log
        assert "uvloop" in container.execute("cat /proc/[0-9]*/maps")
        # The plugin cache was written during the build, and no process could write it now.
        assert "plugin cache" not in log


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


def test_killed_worker_in_the_container_is_replaced(podman: Podman) -> None:
    """
    The standby takes over, and another worker becomes the standby.
    """
    with podman.service() as container:
        container.until(STANDS_BY)
        before = container.until(SERVES)
        container.ask("/next?[1-10]", "--request", "POST")
        container.execute(f"kill -9 {_serving(before)}")
        assert container.ask("/next", "--request", "POST") == "89\n"
        container.until(STANDS_BY, before)


def test_orphaned_process_of_the_container_is_reaped(podman: Podman) -> None:
    with podman.service() as container:
        container.until(SERVES)
        container.execute("sleep 0.1 < /dev/null > /dev/null 2>&1 & true")
        statuses = "cat /proc/[0-9]*/stat || true"
        wait_until(lambda: "(sleep)" not in container.execute(statuses), "it is gone")


def test_every_process_has_a_numeric_user_that_is_not_root(podman: Podman) -> None:
    """
    Kubernetes needs the number.

    The image has no compiler and no installer, and only the volume can be written.
    """
    with podman.service() as container:
        container.until(STANDS_BY)
        _, *users = podman("top", container.name, "huser").split()
        assert set(users) == {"10001"}
        assert podman("inspect", "--format={{.Config.User}}", IMAGE) == "10001:10001"
        assert container.execute("command -v cc gcc pip pip3 || true") == ""
        assert container.execute("find / -xdev -writable -type f || true") == ""


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


def test_damaged_store_is_not_changed(podman: Podman) -> None:
    """
    The service ends with status 78 and one line, and does not change the store.
    """
    with podman.volume() as volume:
        with podman.container(volume) as container:
            container.until(SERVES)
            assert container.stop() == 0
        data = _place(podman, volume) / "store" / "data.mdb"
        damaged = data.read_bytes()[:8192]
        data.write_bytes(damaged)
        with podman.container(volume) as container:
            assert container.until_ended() == 78
            assert "the store /data/store is damaged" in container.log()
        assert data.read_bytes() == damaged


def _place(podman: Podman, volume: str) -> Path:
    return Path(json.loads(podman("volume", "inspect", volume))[0]["Mountpoint"])


def _serving(log: str) -> int:
    """
    Return the process id of the active worker inside the container.
    """
    name = re.findall(SERVES, log)[-1]
    return int(re.findall(rf"{name} is process (\d+)", log)[-1])
