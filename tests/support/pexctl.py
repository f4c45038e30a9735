"""
Run C{pexctl} until it ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.daemon import TIMEOUT_SECONDS, captured

PEXCTL = (str(Path(sys.executable).parent / "pexctl"),)


def run(
    path: Path, *arguments: str, command: tuple[str, ...] = PEXCTL
) -> subprocess.CompletedProcess[str]:
    """
    Run C{pexctl} in the directory C{path}.
    """
    # A reload itself waits up to the usual timeout for its workers.
    return captured([*command, *arguments], 2 * TIMEOUT_SECONDS, cwd=path)


def pexctl(path: Path, *arguments: str) -> tuple[int, str]:
    """
    Run C{pexctl} in the directory C{path}, and return its exit status and output.
    """
    ended = run(path, *arguments)
    return ended.returncode, (ended.stdout + ended.stderr).rstrip("\n")
