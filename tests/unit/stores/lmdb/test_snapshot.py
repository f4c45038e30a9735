"""
A copy of one state of a store takes a short time, or it is given up.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

import lmdb
import pytest

from pexservice.stores.errors import StoreError
from pexservice.stores.lmdb import snapshot
from pexservice.stores.lmdb.databases import oldest_reader
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.snapshot import (
    MAX_ATTEMPTS,
    MAX_GROWTH_BYTES,
    copy_pages,
    copy_snapshot,
)
from tests.unit.stores.lmdb.test_store import filled

PAGE = 4096


class Env:
    """
    A fake LMDB environment whose copies all run until they are ended, except for the last.

    @ivar begun: how many copies were begun.
    """

    def __init__(
        self, copies: int = 1, growth: int = 0, error: Exception | None = None
    ) -> None:
        """
        Make a store that is copied.

        @param copies: how many copies it takes until one is whole.
        @param growth: bytes that the store grows by with each look at its size.
        @param error: what a compacting copy raises.
        """
        self.copies = copies
        self.error = error
        self.begun = 0
        self._pages = count(100, growth // PAGE)

    def path(self) -> str:
        return "/store"

    def stat(self) -> dict[str, int]:
        return {"psize": PAGE}

    def info(self) -> dict[str, int]:
        return {"last_pgno": next(self._pages)}

    def copyfd(self, fd: int, *, compact: bool = False) -> None:
        self.begun += 1
        if compact and self.error is not None:
            os.write(fd, b"half" * 5000)
            raise self.error
        os.write(fd, b"whole")
        while self.begun < self.copies:
            # Until C{fd} is exchanged for one that cannot be written to.
            os.write(fd, b"")
            time.sleep(0.001)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    """
    Provide the file descriptor of a file to copy to, with something in it.
    """
    descriptor = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(descriptor, b"of another time")
    yield descriptor
    os.close(descriptor)


def copy(env: Env, target: int, seconds: float = 0.0) -> None:
    """
    Call L{copy_snapshot} with a clock that advances by C{seconds} at each reading.
    """
    now = count(0.0, seconds)
    copy_snapshot(env, target, lambda _: None, lambda: next(now))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("env", "begun"),
    [
        (Env(), 1),
        # The first copies let the store grow too much.
        (Env(MAX_ATTEMPTS, MAX_GROWTH_BYTES // 4), MAX_ATTEMPTS),
        # LMDB cannot compact a store with a lost page.
        (Env(error=lmdb.IncompatibleError("page leak")), 2),
    ],
)
def test_only_the_last_copy_is_written_and_it_is_complete(
    target: int, env: Env, begun: int
) -> None:
    copy(env, target)
    assert env.begun == begun
    assert os.pread(target, 100_000, 0) == b"whole"


@pytest.mark.parametrize(
    ("growth", "seconds", "reason"),
    [
        (MAX_GROWTH_BYTES // 4, 0.0, "the store grew by more than 64 MiB"),
        (0, 60.0, "it took more than 300 seconds"),
    ],
)
def test_copy_fails_after_some_attempts_with_reason_and_advice(
    target: int, growth: int, seconds: float, reason: str
) -> None:
    env = Env(MAX_ATTEMPTS + 1, growth)
    with pytest.raises(
        StoreError, match=f"/store .*given up, since {reason} .*faster disk"
    ):
        copy(env, target, seconds)
    assert env.begun == MAX_ATTEMPTS


def test_other_error_of_a_copy_is_raised_at_once(target: int) -> None:
    env = Env(error=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left"):
        copy(env, target)
    assert env.begun == 1


def at_once(_: object, call: Callable[..., object], *args: object) -> Future[object]:
    """
    Make a call in this thread.
    """
    done: Future[object] = Future()
    done.set_result(call(*args))
    return done


def test_error_of_the_progress_function_is_raised(target: int) -> None:

    class Slow(Env):
        """
        The fake environment of a store that is copied until it has reported progress.
        """

        def copyfd(self, fd: int, *, compact: bool = False) -> None:
            asked_to_end.wait(10)
            super().copyfd(fd, compact=compact)

    def progress(_: int) -> None:
        asked_to_end.set()
        raise BrokenPipeError

    asked_to_end = threading.Event()
    with pytest.raises(BrokenPipeError):
        copy_snapshot(Slow(), target, progress=progress)  # type: ignore[arg-type]


def test_abandoned_copy_ends_in_lmdb_too(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The state is not read any more.
    """
    filled(path, 500)
    monkeypatch.setattr(snapshot, "MAX_SECONDS", -1.0)
    # Run the watch in this thread, before the copy begins: the copy might be whole by the
    # time that another thread runs.
    monkeypatch.setattr(ThreadPoolExecutor, "submit", at_once)
    with pytest.raises(StoreError, match=f"copy of {path} was begun .* given up"):
        copy_pages(path, tmp_path / "copy")
    assert (path / DATA_FILE).exists()
    with lmdb.open(str(path), readonly=True, max_dbs=3) as env:
        assert oldest_reader(env) is None
