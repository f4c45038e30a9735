"""
A worker whose system calls fail, by strace.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from tests.support.conversation import Conversation
from tests.support.daemon import LOOPBACK, TIMEOUT_SECONDS, children, poll_attempts, twistd

WORKER = "pexservice-worker"

#: The word that strace writes behind a call that it made fail.
INJECTED = "(INJECTED)"


@frozen
class Fault:
    """
    A failure of the C{number}-th such call of each thread.

    With C{forever} all calls that follow it fail too.

    @ivar call: strace's name of the call, or several with commas.
    @ivar error: the error's name, as C{errno.h} has it.
    """

    call: str
    error: str
    number: int
    forever: bool

    def __str__(self) -> str:
        return f"{self.call} {self.error} {self.number}{'+' if self.forever else ''}"

    def strace(self, output: Path, paths: Iterable[str]) -> list[str]:
        """
        Return the command line of strace.

        @param paths: only calls on these paths count; none for all calls.
        """
        when = f"{self.number}{'+' if self.forever else ''}"
        inject = f"inject={self.call}:error={self.error}:when={when}"
        only = [f"--trace-path={path}" for path in paths]
        return ["strace", "-o", str(output), *_trace(self.call), "-e", inject, *only]


def _trace(call: str) -> list[str]:
    return ["-e", f"trace={call}", "-e", "signal=none"]


class Victim:
    """
    A worker that serves the store C{path/disk/store}.  Its log is C{path/victim}.

    The store has its own parent, so that no file of Python's is in the way.
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

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        for conversation in self._conversations:
            conversation.close()
        if self.process.poll() is None:
            # strace passes on no signal, and the worker that it started would stay.
            for pid in children(self.process.pid) if self._traced else []:
                _signal(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()

    def serves(self) -> bool:
        """
        Wait until the worker serves, or has ended; return whether it serves.
        """
        for _ in poll_attempts():
            ended = self.process.poll() is not None
            log = self.log_text()
            if "the cursor is at" in log:
                self.port = int(re.findall(r"listening on 127\.0\.0\.1:(\d+)", log)[0])
                return True
            if ended:
                return False
        raise AssertionError(f"it neither serves nor ends:\n{log}")

    def connect(self) -> Conversation:
        """
        Return a connection, which is closed when this ends.
        """
        self._conversations.append(Conversation(self.port))
        return self._conversations[-1]

    def log_text(self) -> str:
        """
        Return the worker's log.
        """
        return self.log.read_text(errors="replace")

    def terminate(self) -> None:
        """
        Send SIGTERM to the worker.
        """
        pid = self.process.pid
        (pid,) = children(pid) if self._traced else (pid,)
        _signal(pid, signal.SIGTERM)

    def wait(self) -> int:
        """
        Wait until the worker has ended.

        @return: how it ended; strace ends as the program that it started.
        """
        try:
            return self.process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.log_text()}") from None

    def sockets(self) -> set[str]:
        """
        Return the sockets that the worker has open, as strace names them.
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
    Return the option that says where the store is.
    """
    return ["--store", f"lmdb:{path / 'disk' / 'store'}"]


class Tracer:
    """
    strace, attached to a worker that serves.
    """

    def __init__(self, command: Sequence[str], pid: int, output: Path) -> None:
        self._output = output
        strace_output = output.with_suffix(".said")
        with strace_output.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, "-f", "-p", str(pid)], stdin=subprocess.DEVNULL, stderr=file
            )
        for _ in poll_attempts():
            if " attached" in strace_output.read_text() or self.process.poll() is not None:
                break
        if " attached" not in strace_output.read_text():
            self.detach()
            raise CannotTrace(strace_output.read_text().strip())

    def detach(self) -> None:
        """
        Let the worker go on by itself.
        """
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(TIMEOUT_SECONDS)

    def injected(self) -> bool:
        """
        Return whether a call has failed.
        """
        return injected(self._output)


class CannotTrace(Exception):
    """
    The error of a user that may not attach to a process.
    """


def injected(output: Path) -> bool:
    """
    Return whether a call has failed, by strace's output.
    """
    return output.exists() and INJECTED in output.read_text(errors="replace")


def stall(victim: Victim) -> Tracer:
    """
    Return a tracer that slows the disk down as long as it is attached.
    """
    slow = [*_trace("fdatasync"), "-e", "inject=fdatasync:delay_enter=20000"]
    output = victim.log.with_name("stall")
    return Tracer(["strace", "-o", str(output), *slow], victim.process.pid, output)
