"""
There is one version, and everything that names it agrees.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def declared() -> str:
    """
    Where it is written: C{pyproject.toml}.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def test_installed() -> None:
    """
    What is installed, and C{--version} tells, is what is declared.
    """
    assert version("pexservice") == declared()


def test_debian() -> None:
    """
    The Debian package has the same, in its latest entry.
    """
    latest, _, _ = (ROOT / "debian" / "changelog").read_text().partition("\n")
    assert latest.startswith(f"pexservice ({declared()}) ")


def test_changes() -> None:
    """
    The list of changes begins with what is not released yet, or with this version;
    what is not released yet has a version that no release had.
    """
    headings = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    newest, *older = headings
    assert newest in ("Unreleased", declared())
    assert declared() not in older
