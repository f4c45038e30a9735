"""
The package on a machine with a real systemd, from its installation to its purge.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.system.built import BASE, built
from tests.packaging.system.machine import Machine
from tests.support.installation import RELEASE_DEB


@pytest.fixture
def root() -> Iterator[Path]:
    """
    Provide the directory tree of a machine with the sources and the package.

    The directory stays if the test fails.
    """
    directory = BASE.parent / "machine"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    _unpack(BASE, directory)
    source = directory / "root" / "source"
    source.mkdir()
    _unpack(built(".tar.xz"), source)
    shutil.copy(built(".deb"), directory / "root" / "pexservice.deb")
    yield directory
    shutil.rmtree(directory)


def test_package_lives_on_a_booted_machine_from_install_to_purge(root: Path) -> None:
    """
    Apt installs the package, the service runs, and the autopkgtests pass.

    They misuse, maintain, crash, reload, restart and upgrade the service under load.  The
    cursor survives a reboot and a removal, and a purge leaves no file.
    """
    # autopkgtest does not build a tree that has this file.
    (root / "root" / "source" / "pexservice" / "debian" / "files").touch()
    with Machine(root) as machine:
        machine.run("apt-get", "install", "--yes", "/root/pexservice.deb")
        _autopkgtest(machine)

        before = _cursor(machine)
        assert before > (0, 0)
        machine.reboot()
        assert _cursor(machine) == before

        machine.run("apt-get", "remove", "--yes", "pexservice")
        assert not _listens(machine)
        machine.run("apt-get", "install", "--yes", "/root/pexservice.deb")
        assert _cursor(machine) == before

        machine.run("apt-get", "purge", "--yes", "pexservice")
        assert not _listens(machine)
        assert _left(machine) == []


def test_upgrade_from_the_last_release_under_load_keeps_the_cursor(root: Path) -> None:
    """
    The old supervisor starts new workers, and then a new supervisor replaces it.
    """
    shutil.copy(RELEASE_DEB, root / "root" / "release.deb")
    with Machine(root) as machine:
        machine.run("apt-get", "install", "--yes", "/root/release.deb")
        print(
            machine.run(
                *("env", "-C", "/root/source/pexservice", "PYTHONPATH=src"),
                *("python3", "-m", "tests.packaging.system.from_release"),
                "/root/pexservice.deb",
            )
        )
        assert _cursor(machine) > (0, 0)


def _unpack(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as contents:
        # Root may unpack everything, including devices.
        contents.extractall(directory, filter="fully_trusted")  # noqa: S202 our own archives


def _autopkgtest(machine: Machine) -> None:
    """
    Run the autopkgtests.

    The null runner changes the machine on which it runs, so its restrictions must be
    ignored.
    """
    output = machine.run(
        *("autopkgtest", "--no-built-binaries", "/root/source/pexservice"),
        *("--ignore-restrictions=breaks-testbed,isolation-container", "--", "null"),
    )
    print(output)
    results = dict(re.findall(r"(?m)^(\w+) +(PASS|FAIL|SKIP)", output))
    assert results == dict.fromkeys(
        ("smoke", "upkeep", "instances", "wrong", "crash", "upgrade"), "PASS"
    )


def _cursor(machine: Machine) -> tuple[int, int]:
    """
    Return the revision and the position of the cursor.
    """
    output = machine.run(
        *("curl", "--silent", "--show-error", "--fail", "--include"),
        "http://127.0.0.1:8081/current",
    )
    revision, position = (
        re.findall(rf"(?m)^Pex-{name}: (\d+)", output) for name in ("Revision", "Position")
    )
    return int(revision[0]), int(position[0])


def _listens(machine: Machine) -> bool:
    """
    Return whether the port accepts connections.
    """
    return machine.attempt("curl", "--silent", "http://127.0.0.1:8081/").returncode == 0


def _left(machine: Machine) -> list[str]:
    """
    Return the files of the package that are left, and other files that name it.
    """
    named = machine.run(
        "find", "/etc", "/run", "/usr", "/var", "-xdev", "-name", "*pexservice*"
    )
    cache = "/usr/lib/python3/dist-packages/twisted/plugins/dropin.cache"
    speaking = machine.attempt("grep", "--files-with-matches", "pexservice", cache)
    return (named + speaking.stdout).splitlines()
