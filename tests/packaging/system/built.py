"""
The files that C{make system} has built.
"""

from __future__ import annotations

from pathlib import Path

TREE = Path(__file__).parents[3]

#: A Debian with systemd and what the package depends on.
BASE = TREE / "build" / "system" / "base.tar"


def built(suffix: str) -> Path:
    """
    Return the one file of the package that ends like this.
    """
    (package,) = (TREE / "build" / "deb").glob(f"pexservice_*{suffix}")
    return package
