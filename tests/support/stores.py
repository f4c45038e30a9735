"""
Make LMDB stores for tests.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, TypeVar

import lmdb

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.interface import Batch
from pexservice.stores.lmdb import migrate, records, snapshot, verify
from pexservice.stores.lmdb.child import Progress
from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.remembered_keys import pack_use
from tests.support.fakes import inline, now

if TYPE_CHECKING:
    # The machine on which the package is tested has no pytest.
    import pytest

T = TypeVar("T")


def copied(make: Callable[[Path, int], T]) -> Callable[[Path, int], T]:
    """
    Wrap C{make} so that it makes a store of each size only once.

    Later calls copy that store, which needs no flush of the disk.
    """
    made: dict[int, tuple[Path, T]] = {}

    def copy(path: Path, size: int) -> T:
        if size not in made:
            place = Path(mkdtemp(prefix="pexservice-tests-"))
            atexit.register(shutil.rmtree, place)
            made[size] = place / "store", make(place / "store", size)
        original, result = made[size]
        shutil.copytree(original, path, dirs_exist_ok=True)
        return result

    return copy


def read_without_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Read undamaged stores in this process: a child takes a third of a second to start.
    """

    def run(
        function: Callable[..., None], path: Path, *arguments: Path, progress: Progress
    ) -> None:
        function(path, *arguments, progress)

    for module in (migrate, snapshot, verify):
        monkeypatch.setattr(module, "run_child", run)


@copied
def make_store(path: Path, position: int) -> None:
    """
    Make a store in C{path} whose cursor moved to C{position} in one batch.
    """
    store = LmdbStore(Directory(str(path)), inline(), verify=lambda *_: None)
    now(store.open())
    if position:
        after = Cursor(position, position)
        now(store.commit(Batch(Cursor(0, 0), b"n" * position, after, time_ns=0)))
    now(store.close())


def make_store_with_keys(
    path: Path, step_count: int, *, batch_size: int = 1, key: Callable[[int], bytes]
) -> None:
    """
    Make a store in C{path} at position C{step_count}, in which each step has a key.

    @param key: returns the key of the step with a revision.
    """
    store = LmdbStore(Directory(str(path)), inline(), verify=lambda *_: None)
    now(store.open())
    for first in range(1, step_count + 1, batch_size):
        last = first + batch_size - 1
        before, after = Cursor(first - 1, first - 1), Cursor(last, last)
        keys = {
            key(revision): pack_use(Transition.NEXT.code, revision, revision)
            for revision in range(first, first + batch_size)
        }
        now(store.commit(Batch(before, b"n" * batch_size, after, time_ns=0, keys=keys)))
    now(store.close())


def make_long_store(path: Path, rows: int) -> None:
    """
    Make a store in C{path} with C{rows} rows in its journal, each with one reset.

    The rows are written without the committer, which would flush each of them.
    """
    make_store(path, 0)
    (path / "newest").unlink()
    with lmdb.open(
        str(path), map_size=1024 * rows + 2**20, max_dbs=len(DATABASES), sync=False
    ) as env:
        cursor, journal, _ = (env.open_db(name) for name in DATABASES)
        with env.begin(write=True) as txn:
            for revision in range(1, rows + 1):
                before, after = Cursor(revision - 1, 0), Cursor(revision, 0)
                batch = Batch(before, b"r", after, time_ns=revision)
                txn.put(*records.encode_journal_row(batch), db=journal, append=True)
            txn.put(
                records.CURSOR_KEY, records.encode_cursor(Cursor(rows, 0), 1), db=cursor
            )
        env.sync(True)  # noqa: FBT003 its only argument
    (path / "lock.mdb").unlink()
