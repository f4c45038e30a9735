"""
Children and parents: a child ends with its parent, and process 1 reaps orphans.

If the command of a child begins with the words of L{killed_with_parent}, the kernel kills
the child when its parent ends, even a child that is stopped.  This needs C{setpriv}, which
takes effect a millisecond after the child has started.  Before that, and if C{setpriv}
cannot be used, a thread of the child kills the child when the parent's end of a pipe is
closed; see L{pexservice.process.signals.end_with_parent}.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Container
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from twisted.logger import Logger

T = TypeVar("T")

_log = Logger()

#: How long a start waits for an address or a store that is in use.  If a supervisor was
#: killed, its workers release them within this time.
BUSY_TIMEOUT_SECONDS = 3.0
BUSY_RETRY_SECONDS = 0.1


@cache
def killed_with_parent() -> tuple[str, ...]:
    """
    Return the words to put before a command, so that its process ends with its parent.

    There are no words if C{setpriv} is missing; if it comes from busybox, which lacks the
    option; or if it fails because a sandbox of systemd forbids capset(2).
    """
    words = (shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL")
    try:
        subprocess.run(  # noqa: S603 the words are fixed
            [*words, "true"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return words


def supervisor_of(worker_pid: int) -> int | None:
    """
    Return the process id of the supervisor that started a worker.

    @return: C{None} if C{worker_pid} is no worker of a supervisor, or has ended.
    """
    process = Path(f"/proc/{worker_pid}")
    with suppress(OSError):
        if b"--supervisor" in (process / "cmdline").read_bytes().split(b"\0"):
            status = (process / "status").read_text()
            return int(status.partition("PPid:")[2].split()[0])
    return None


def retry_while_busy(
    attempt: Callable[[], T],
    busy: type[Exception],
    sleep: Callable[[float], bool],
) -> T:
    """
    Call C{attempt} until it does not raise C{busy}, and return its result.

    After L{BUSY_TIMEOUT_SECONDS}, or when a sleep is interrupted, raise the exception.

    @param sleep: sleeps for the given seconds, and returns whether it was not interrupted.
    """
    end = None
    while True:
        try:
            return attempt()
        except busy as error:
            if end is None:
                # The part after the semicolon is advice for a start that has failed.
                reason, _, _ = str(error).partition(";")
                _log.info("{reason}; retrying", reason=reason)
                end = time.monotonic() + BUSY_TIMEOUT_SECONDS
            if time.monotonic() > end or not sleep(BUSY_RETRY_SECONDS):
                raise


def reap_orphans(own: Container[int]) -> None:
    """
    Reap the orphans that have ended, until the next ended child is one of C{own}.

    @param own: the ids of processes that other code reaps.  Until then, the kernel returns
        the same child again.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, 0)
