"""
A worker whose system calls fail, because strace injects errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from tests.support.conversation import Conversation
from tests.support.daemon import WORKER, Daemon


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
        return ["-e", f"trace={self.call}", "-e", "signal=none", "-e", inject, *only]


class Victim(Daemon):
    """
    A worker with the store C{path/disk/store}, which may fail to start.

    The store has its own parent directory, so that no other file is affected.

    @ivar serves: whether the worker has started; if not, it has ended.
    """

    serves = True

    def __init__(
        self, path: Path, *options: str, reactor: str, strace: Sequence[str] = ()
    ) -> None:
        self._conversations: list[Conversation] = []
        options = (*store_option(path), *options)
        super().__init__(path, *options, command=WORKER, reactor=reactor, wrapper=strace)

    def wait_for_log(self, pattern: str, start: int = 0) -> str:
        try:
            return super().wait_for_log(pattern, start)
        except AssertionError:
            if self.process.poll() is None:
                raise
            self.serves = False
            return ""

    def __exit__(self, error: object, *_: object) -> None:
        for conversation in self._conversations:
            conversation.close()
        super().__exit__(error)

    def converse(self) -> Conversation:
        """
        Return a connection, which C{__exit__} closes.
        """
        self._conversations.append(Conversation(self.port))
        return self._conversations[-1]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

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


def store_option(path: Path) -> list[str]:
    """
    Return the option C{--store} with the path of the store.
    """
    return ["--store", f"lmdb:{path / 'disk' / 'store'}"]
