"""
The programs, rights and libraries that some tests need, and how to get them.

A test names its requirements with a marker: C{@pytest.mark.needs("etcd", "root")}.
L{tests.conftest} calls L{missing} before the test's fixtures are set up, and skips the test
if something is missing.  No test is skipped for another reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

#: Debian has programs for administrators in C{sbin}, which a user's PATH lacks.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

#: The capability to mount file systems, as a bit of C{CapEff}; see capabilities(7).
_CAP_SYS_ADMIN = 21


@frozen
class Need:
    """
    A requirement that not every machine meets.

    @ivar remedy: how to get it, as text after "needs NAME:".
    @ivar met: return whether this machine meets it.
    """

    remedy: str
    met: Callable[[], bool]


def program(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _program(name: str, package: str) -> Need:
    return Need(f"apt install {package}", lambda: program(name) is not None)


def _library(name: str, extra: str) -> Need:
    return Need(f"pip install '.[{extra}]'", lambda: find_spec(name) is not None)


def _runs(*command: str) -> bool:
    """
    Return whether a command can be run and ends with status 0.
    """
    try:
        ended = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except OSError:
        return False
    return ended.returncode == 0


def is_root() -> bool:
    return os.geteuid() == 0


def _mounts() -> bool:
    """
    Return whether this process can mount a file that contains a file system.
    """
    status = Path("/proc/self/status").read_text()
    (capabilities,) = (
        int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith("CapEff:")
    )
    return bool(capabilities >> _CAP_SYS_ADMIN & 1) and Path("/dev/loop-control").exists()


def _mount_table() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


#: Options of C{unshare} for a process that may not create namespaces otherwise.
UNSHARE_RIGHTS = [] if is_root() else ["--user", "--map-root-user"]


def memory_controller() -> tuple[Path, int] | None:
    """
    Return where the kernel's memory controller is mounted, and its version, 1 or 2.
    """
    for line in _mount_table():
        mount, _, source = line.partition(" - ")
        where, (kind, _, options) = Path(mount.split(" ")[4]), source.split(" ")
        if kind == "cgroup" and "memory" in options.split(","):
            return where, 1
        controllers = where / "cgroup.controllers"
        if (
            kind == "cgroup2"
            and controllers.exists()
            and "memory" in controllers.read_text().split()
        ):
            return where, 2
    return None


def _memory_groups() -> bool:
    """
    Return whether the memory of a group of processes can be limited.
    """
    controller = memory_controller()
    return controller is not None and os.access(controller[0], os.W_OK)


def faketime_library() -> Path | None:
    """
    Return the path of Debian's libfaketime, which depends on the architecture.
    """
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


#: All requirements by their names in the marker.
NEEDS = {
    # Rights of this process.
    "root": Need("run the tests as root", is_root),
    "mounts": Need("let root mount loop devices", _mounts),
    "memory controller": Need("a writable memory cgroup", _memory_groups),
    "namespaces": Need(
        "allow namespaces of processes",
        lambda: _runs(
            "unshare", *UNSHARE_RIGHTS, "--pid", "--fork", "--mount-proc", "true"
        ),
    ),
    "mount table": Need(
        "a root directory that is a mount point, which a chroot's need not be",
        lambda: "/" in {line.split(" ")[4] for line in _mount_table()},
    ),
    # Packages of Debian.
    "chromium": _program("chromium", "chromium"),
    "curl": _program("curl", "curl"),
    "etcd": _program("etcd", "etcd-server"),
    "etcdctl": _program("etcdctl", "etcd-client"),
    "faketime": Need("apt install faketime", lambda: faketime_library() is not None),
    "git": _program("git", "git"),
    "kubectl": _program("kubectl", "kubectl"),
    "kustomize": _program("kustomize", "kustomize"),
    "mkfs.ext4": _program("mkfs.ext4", "e2fsprogs"),
    "mkfs.xfs": _program("mkfs.xfs", "xfsprogs"),
    "mmdebstrap": _program("mmdebstrap", "mmdebstrap"),
    "mount": _program("mount", "mount"),
    "nginx": _program("nginx", "nginx-light"),
    "node": _program("node", "nodejs"),
    "podman": _program("podman", "podman"),
    "promtool": _program("promtool", "prometheus"),
    "runc": _program("runc", "runc"),
    "slowhttptest": _program("slowhttptest", "slowhttptest"),
    "zsh": _program("zsh", "zsh"),
    "strace": Need(
        "apt install strace, and let it trace",
        lambda: _runs("strace", "-qq", "-o", os.devnull, "true"),
    ),
    # Packages of Python that Debian 13 lacks, or of which it has an old version.
    "axe": _library("axe_playwright_python", "browser"),
    # find_spec("build") would find a directory with this name.
    "build": _library("pyproject_hooks", "test"),
    "fastapi": _library("fastapi", "test"),
    "httpx": _library("httpx", "test"),
    "jsonschema": _library("jsonschema", "api"),
    "kubernetes-validate": _library("kubernetes_validate", "test"),
    "openapi-python-client": _library("openapi_python_client", "api"),
    "openapi-spec-validator": _library("openapi_spec_validator", "api"),
    "playwright": _library("playwright", "browser"),
    "requests": _library("requests", "test"),
    "schemathesis": _library("schemathesis", "api"),
}


@cache
def _met(name: str) -> bool:
    return NEEDS[name].met()


def missing(names: Iterable[str]) -> list[str]:
    """
    Return those of C{names} that this machine lacks.  Each is checked only once.

    @raise KeyError: there is no requirement with this name.
    """
    return [name for name in names if not _met(name)]


def advice(name: str) -> str:
    """
    Return the message about a missing requirement.
    """
    return f"needs {name}: {NEEDS[name].remedy}"
