"""
Commands that must end with a certain status.
"""

from __future__ import annotations

import subprocess
from typing import Any

from tests.support.daemon import TIMEOUT_SECONDS


def run_command(
    *command: str, status: int = 0, timeout: float = TIMEOUT_SECONDS, **options: Any
) -> str:
    """
    Run a command, check its exit status, and return its output and its messages.

    @param options: arguments of C{subprocess.run}.
    """
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    ended: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        **options,
    )
    assert ended.returncode == status, f"{command}: {ended.returncode}\n{ended.stdout}"
    return ended.stdout
