"""
Everything that names the version agrees, and the built packages are reproducible.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.daemon import TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]


DECLARED = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def test_installed_version_and_debian_changelog_have_the_declared_version() -> None:
    """
    C{--version} shows the installed version.
    """
    assert version("pexservice") == DECLARED
    changelog = (ROOT / "debian" / "changelog").read_text()
    assert changelog.startswith(f"pexservice ({DECLARED}) ")


def test_the_list_of_changes_begins_with_this_version_or_with_a_later_one() -> None:
    """
    A later version has the changes that are not released yet.
    """

    def numbers(version: str) -> list[int]:
        return [int(number) for number in version.split(".")]

    headings = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    newest, second, *_ = map(numbers, headings)
    assert second < newest
    assert numbers(DECLARED) in (newest, second)


@pytest.mark.long
@pytest.mark.once
@pytest.mark.needs("git", "build")
def test_wheel_and_sdist_are_identical_in_each_build(tmp_path: Path) -> None:
    """
    The builds have different umasks.  C{make system} checks the Debian package.
    """
    sums = []
    for umask, place in ((0o022, tmp_path / "one"), (0o077, tmp_path / "two")):
        before = os.umask(umask)
        try:
            ended = subprocess.run(
                [str(ROOT / ".ci" / "release"), str(place)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                timeout=5 * TIMEOUT_SECONDS,
                env={**os.environ, "PACKAGES": "wheel sdist", "PYTHON": sys.executable},
            )
        finally:
            os.umask(before)
        sums.append(ended.stdout)
    assert sums[0] == sums[1]
    assert sorted(line.split()[1] for line in sums[0].splitlines()) == [
        f"pexservice-{DECLARED}-py3-none-any.whl",
        f"pexservice-{DECLARED}.tar.gz",
    ]
