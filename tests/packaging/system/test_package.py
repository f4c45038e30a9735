"""
The package by itself: lint, reproducibility, sandbox, and removal.
"""

from __future__ import annotations

import os
from functools import partial
from hashlib import sha256
from pathlib import Path

from tests.packaging.system.built import BASE, TREE, built
from tests.support.commands import run_command
from tests.support.daemon import TIMEOUT_SECONDS

#: With Debian's own Python, because the path may have another one first.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}


run = partial(run_command, timeout=20 * TIMEOUT_SECONDS, env=ENVIRONMENT)


def test_lintian_finds_nothing_without_an_override() -> None:
    assert [*(TREE / "debian").rglob("*lintian-overrides")] == []
    options = ("--allow-root", "--pedantic", "-E", "-I")
    assert run("lintian", *options, str(built(".changes"))) == ""


def test_pictures_of_the_documentation_are_packaged_as_they_are() -> None:
    """
    A browser cannot show pictures that dh_compress has compressed.
    """
    contents = run("dpkg-deb", "--contents", str(built(".deb")))
    assert ".webp\n" in contents
    assert ".webp.gz\n" not in contents


def test_new_version_in_debian_changelog_alone_builds_no_package(
    tmp_path: Path,
) -> None:
    """
    Otherwise the program would name another version than its package.
    """
    source = tmp_path / "source"
    run("dpkg-source", "--extract", str(built(".dsc")), str(source))
    changelog = source / "debian" / "changelog"
    text = changelog.read_text()
    version = text.partition("(")[2].partition(")")[0]
    changelog.write_text(text.replace(f"({version})", f"({version}.1)", 1))
    build = ("env", "-C", str(source), "debian/rules", "override_dh_auto_configure")
    output = run(*build, status=2)
    assert f"debian/changelog has version {version}.1, pyproject.toml has" in output


def test_rebuilt_package_is_identical_byte_for_byte(tmp_path: Path) -> None:
    """
    The second build has another path, time, umask, time zone and language.
    """
    source = tmp_path / "elsewhere"
    run("dpkg-source", "--extract", str(built(".dsc")), str(source))
    before = os.umask(0o077)
    try:
        run(
            *("env", "-C", str(source), "faketime", "-f", "+400d"),
            *("dpkg-buildpackage", "--build=binary", "--no-sign"),
            env=ENVIRONMENT
            | {"DEB_BUILD_OPTIONS": "nocheck", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"},
        )
    finally:
        os.umask(before)
    (again,) = tmp_path.glob("*.deb")
    # Checksums, because pytest would take minutes to show the difference of the bytes.
    assert (
        sha256(again.read_bytes()).digest() == sha256(built(".deb").read_bytes()).digest()
    )


def test_systemd_rates_the_exposure_of_the_sandbox_at_most_1_of_10() -> None:
    unit = TREE / "debian" / "pexservice.service"
    run("systemd-analyze", "security", "--offline=yes", "--threshold=10", str(unit))


def test_removed_and_purged_package_leaves_nothing_behind() -> None:
    """
    Piuparts installs, removes, purges and installs the package.
    """
    run(
        *("piuparts", "--basetgz", str(BASE)),
        *("--distribution", "trixie", "--keep-sources-list", "--no-upgrade-test"),
        *("--install-remove-install", "--install-purge-install"),
        # piuparts runs logrotate with the package's configuration, and this file of
        # logrotate stays.
        *("--ignore", "/var/lib/logrotate/status"),
        str(built(".deb")),
    )
