"""
The files that C{make system} builds.
"""

from __future__ import annotations

from pathlib import Path

TREE = Path(__file__).parents[3]

#: A Debian with systemd and the dependencies of the package.
BASE = TREE / "build" / "system" / "base.tar"


def built(suffix: str) -> Path:
    """
    Return the one file of the package with this suffix.
    """
    (package,) = (TREE / "build" / "deb").glob(f"pexservice_*{suffix}")
    return package
