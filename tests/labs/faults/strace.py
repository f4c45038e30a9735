"""
A worker whose system calls fail, because strace injects errors.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from attrs import frozen

from tests.support.conversation import Conversation
from tests.support.daemon import (
    LOOPBACK,
    TIMEOUT_SECONDS,
    WORKER,
    children,
    poll_attempts,
    twistd,
)
from tests.support.strace import Tracer


@frozen
class Fault:
    """
    A failure of one system call in each thread, and perhaps of all later ones.

    @ivar call: strace's name of the call, or several names with commas.
    @ivar error: the name of the error in C{errno.h}.
    @ivar number: the number of the call that fails.
    @ivar forever: whether all later calls fail too.
    """

    call: str
    error: str
    number: int
    forever: bool

    def __str__(self) -> str:
        return f"{self.call} {self.error} {self.number}{'+' if self.forever else ''}"

    def strace(self, paths: Iterable[str]) -> list[str]:
        """
        Return the options of strace.

        @param paths: the paths of the calls that count; without a path, all calls count.
        """
        when = f"{self.number}{'+' if self.forever else ''}"
        inject = f"inject={self.call}:error={self.error}:when={when}"
        only = [f"--trace-path={path}" for path in paths]
        return [*_trace(self.call), "-e", inject, *only]


def _trace(call: str) -> list[str]:
    return ["-e", f"trace={call}", "-e", "signal=none"]


class Victim:
    """
    A worker with the store C{path/disk/store} and the log C{path/victim}.

    The store has its own parent directory, so that no other file is affected.
    """

    def __init__(
        self, path: Path, *options: str, reactor: str, strace: Sequence[str] = ()
    ) -> None:
        self.log = path / "victim"
        self.port = 0
        arguments = twistd("-n", "--pidfile=", f"--reactor={reactor}", WORKER)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*strace, *arguments, "--listen", LOOPBACK, *store_option(path), *options],
                cwd=path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._traced = bool(strace)
        self._conversations: list[Conversation] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for conversation in self._conversations:
            conversation.close()
        if self.process.poll() is None:
            # strace forwards no signal, so the worker would survive it.
            for pid in children(self.process.pid) if self._traced else []:
                _signal(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()

    def serves(self) -> bool:
        """
        Wait until the worker serves or has ended; return whether it serves.
        """
        for _ in poll_attempts():
            ended = self.process.poll() is not None
            log = self.log_text()
            if "the cursor is at" in log:
                self.port = int(re.findall(r"listening on 127\.0\.0\.1:(\d+)", log)[0])
                return True
            if ended:
                return False
        raise AssertionError(f"the worker neither serves nor ends:\n{log}")

    def connect(self) -> Conversation:
        """
        Return a connection, which C{__exit__} closes.
        """
        self._conversations.append(Conversation(self.port))
        return self._conversations[-1]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def terminate(self) -> None:
        pid = self.process.pid
        (pid,) = children(pid) if self._traced else (pid,)
        _signal(pid, signal.SIGTERM)

    def wait(self) -> int:
        """
        Wait until the worker has ended.

        @return: its exit status; strace ends with the status of its program.
        """
        try:
            return self.process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{self.log_text()}") from None

    def sockets(self) -> set[str]:
        """
        Return strace's names of the worker's open sockets.
        """
        names = set()
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                names.add(str(descriptor.readlink()))
            except FileNotFoundError:
                continue
        return {name for name in names if name.startswith("socket:")}


def _signal(pid: int, number: signal.Signals) -> None:
    # The process may have ended by itself.
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def store_option(path: Path) -> list[str]:
    """
    Return the option C{--store} with the path of the store.
    """
    return ["--store", f"lmdb:{path / 'disk' / 'store'}"]


def slow_flushes(victim: Victim) -> Tracer:
    """
    Return a tracer that delays each flush until it is detached.
    """
    slow = [*_trace("fdatasync"), "-e", "inject=fdatasync:delay_enter=20000"]
    return Tracer(victim.process.pid, *slow)
