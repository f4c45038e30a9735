"""
strace, attached to a process that runs.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts

#: The mark of strace after a call that it made fail.
_INJECTED = "(INJECTED)"


class Tracer:
    """
    strace, attached to all threads of a process, until L{detach} or the end of a block.
    """

    def __init__(self, pid: int, *options: str, output: Path = Path(os.devnull)) -> None:
        self._output = output
        with tempfile.TemporaryFile() as messages:
            self.process = subprocess.Popen(
                ["strace", "-f", "-o", str(output), *options, "-p", str(pid)],  # noqa: S607 found by the PATH
                stdin=subprocess.DEVNULL,
                stderr=messages,
            )
            for _ in poll_attempts():
                # Both processes share the position in the file.
                said = os.pread(messages.fileno(), 65536, 0)
                if b" attached" in said or self.process.poll() is not None:
                    break
        if b" attached" not in said:
            self.detach()
            raise AssertionError(said.decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """
        Let the process continue without strace.
        """
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(TIMEOUT_SECONDS)

    def injected(self) -> bool:
        """
        Return whether a call has failed.
        """
        return injected(self._output)


def injected(output: Path) -> bool:
    """
    Return whether a call has failed, according to strace's output.
    """
    return output.exists() and _INJECTED in output.read_text(errors="replace")


def slow_flushes(pid: int, seconds: float) -> Tracer:
    """
    Delay each flush that the process begins, until the end of a block.
    """
    flushes = "fdatasync,fsync"
    delay = f"inject={flushes}:delay_enter={int(seconds * 1e6)}"
    return Tracer(pid, "-e", f"trace={flushes}", "-e", "signal=none", "-e", delay)
