"""
Run C{pexctl} until it ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.daemon import TIMEOUT_SECONDS

PEXCTL = (str(Path(sys.executable).parent / "pexctl"),)


def run(
    path: Path, *arguments: str, command: tuple[str, ...] = PEXCTL
) -> subprocess.CompletedProcess[str]:
    """
    Run C{pexctl} in the directory C{path}.
    """
    return subprocess.run(
        [*command, *arguments],
        cwd=path,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # A reload itself waits up to the usual timeout for its workers.
        timeout=2 * TIMEOUT_SECONDS,
    )


def pexctl(path: Path, *arguments: str) -> tuple[int, str]:
    """
    Run C{pexctl} in the directory C{path}, and return its exit status and output.
    """
    ended = run(path, *arguments)
    return ended.returncode, (ended.stdout + ended.stderr).rstrip("\n")
