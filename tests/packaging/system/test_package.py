"""
The package by itself: clean, reproducible, closed off, and gone when it is removed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.packaging.system.built import BASE, TREE, built
from tests.support.daemon import PATIENCE

#: Debian's own Python, for there may be another one in the path.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}


def run(*command: str, **more: str) -> str:
    """
    Run a command to its end.

    @param more: further variables of the environment.
    @return: what it wrote.
    """
    ended = subprocess.run(
        command,
        check=False,
        env=ENVIRONMENT | more,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20 * PATIENCE,
    )
    assert ended.returncode == 0, f"{command}: {ended.returncode}\n{ended.stdout}"
    return ended.stdout


def test_no_tag() -> None:
    """
    Lintian finds nothing in source and package, and there is no override.
    """
    assert [*(TREE / "debian").rglob("*lintian-overrides")] == []
    options = ("--allow-root", "--pedantic", "-E", "-I")
    assert run("lintian", *options, str(built(".changes"))) == ""


def test_reproducible(tmp_path: Path) -> None:
    """
    Each byte of the package is the same when the source package is built again.

    It may be built in another place, at another time, with another umask, time zone and
    language.
    """
    source = tmp_path / "elsewhere"
    run("dpkg-source", "--extract", str(built(".dsc")), str(source))
    before = os.umask(0o077)
    try:
        run(
            *("env", "-C", str(source), "faketime", "-f", "+400d"),
            *("dpkg-buildpackage", "--build=binary", "--no-sign"),
            DEB_BUILD_OPTIONS="nocheck",
            LC_ALL="C",
            TZ="Pacific/Kiritimati",
        )
    finally:
        os.umask(before)
    (again,) = tmp_path.glob("*.deb")
    assert again.read_bytes() == built(".deb").read_bytes()


def test_hardly_exposed() -> None:
    """
    The service's sandbox leaves an exposure of 1.0 of 10 at most, as systemd judges it.
    """
    unit = TREE / "debian" / "pexservice.service"
    run("systemd-analyze", "security", "--offline=yes", "--threshold=10", str(unit))


def test_leaves_nothing_behind() -> None:
    """
    The package leaves nothing that should not be there.

    It is installed, removed, purged and installed again; piuparts looks.
    """
    run(
        *("piuparts", "--basetgz", str(BASE)),
        *("--distribution", "trixie", "--keep-sources-list", "--no-upgrade-test"),
        *("--install-remove-install", "--install-purge-install"),
        # piuparts runs logrotate, which stays, with the package's configuration.
        *("--ignore", "/var/lib/logrotate/status"),
        str(built(".deb")),
    )
