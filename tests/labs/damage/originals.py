"""
Undamaged stores, their contents, and their contents after some more commits.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from attrs import frozen

from pexservice.core.cursor import Cursor, Transition, position_after
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE, Directory
from pexservice.stores.lmdb.migrate import rewrite
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.remembered_keys import KeyUse, pack_use
from tests.support.fakes import ABOVE_ALL, inline, now
from tests.support.format_1 import turn_back

#: How many transitions and keys a store keeps.  The number is small, so that the store
#: trims.
KEPT_ENTRIES = 600

#: From how many of the last commits the data file is kept, so that its pages can be
#: restored.
EARLIER_COUNT = 5

#: How many commits are made on a damaged store that was accepted.
LATER_COMMITS = 12

#: After so many commits, the journal and the keys have exceeded their limits: the oldest
#: rows are trimmed, and their pages are free.
FULL_COMMITS = 1500

#: Each combination of format and size occurs once in so many stores.
KINDS = 4


@frozen
class Contents:
    """
    The contents of a store: its history, which ends at its cursor, and its keys.
    """

    history: tuple[HistoryEntry, ...]
    keys: tuple[KeyUse | None, ...]


@frozen
class Original:
    """
    An undamaged store.

    @ivar data: its data file.
    @ivar witness: its witness.
    @ivar earlier: the data file after each of the commits before the last, newest first.
    @ivar contents: its contents.
    @ivar earlier_contents: the contents of C{earlier}.
    @ivar later: the contents after some more commits.
    @ivar used_keys: all idempotency keys that were used.
    """

    data: bytes
    witness: bytes
    earlier: tuple[bytes, ...]
    contents: Contents
    earlier_contents: tuple[Contents, ...]
    later: Contents
    used_keys: tuple[bytes, ...]


def open_unverified(path: Path) -> LmdbStore:
    """
    Open a store without a verification.

    A store of format 1 is rewritten in this process, because starting another process would
    take most of the time of the test.
    """
    store = LmdbStore(
        Directory(str(path)),
        inline(),
        kept_transitions=KEPT_ENTRIES,
        kept_keys=KEPT_ENTRIES,
        verify=lambda *_: None,
    )
    with patch("pexservice.stores.lmdb.migrate.run_child", _rewrite_here):
        now(store.open())
    return store


def _rewrite_here(_: object, source: Path, new: Path, **__: object) -> None:
    rewrite(source, new, lambda _: None)


def read(store: LmdbStore, used_keys: tuple[bytes, ...]) -> Contents:
    history = now(store.history(ABOVE_ALL, 10 * KEPT_ENTRIES))
    return Contents(tuple(history), tuple(map(store.remembered_keys.find, used_keys)))


class BatchMaker:
    """
    Makes random batches.
    """

    def __init__(self, rng: random.Random, cursor: tuple[int, int]) -> None:
        self.used_keys: list[bytes] = []
        self._rng = rng
        self._revision, self._position = cursor

    def batch(self, length: int, keys: int, key_length: int) -> Batch:
        """
        Return the next batch, with C{keys} new keys.
        """
        before = Cursor(self._revision, self._position)
        transition_codes, uses = bytearray(), {}
        for number in range(length):
            transition = self._rng.choices(list(Transition), (8, 4, 1))[0]
            transition_codes += transition.code
            self._revision += 1
            self._position = position_after(self._position, transition)
            if number < keys:
                key = b"%0*d" % (key_length, self._rng.getrandbits(60))
                self.used_keys.append(key)
                uses[key] = pack_use(transition.code, self._revision, self._position)
        after = Cursor(self._revision, self._position)
        return Batch(before, bytes(transition_codes), after, before.revision + 1, uses)


def make_original(path: Path, seed: int) -> Original:
    """
    Make a store in the directory C{path}; each seed gives another store.

    Every second store has format 1, as version 1.0.0 left it.  Half of the stores are full
    and have long keys: their journal and their keys have been trimmed, and their trees have
    pages of all kinds, in format 1 on three levels.  The others have from a few pages to
    hundreds, with long rows and short ones.
    """
    rng = random.Random(seed)  # noqa: S311 to be repeated
    is_old, is_full = bool(seed % 2), seed % KINDS >= KINDS // 2
    store = open_unverified(path / "store")
    batch_maker = BatchMaker(rng, (0, 0))
    key_length = 250 if is_full else rng.choice((20, 20, 60, 250))
    commits = FULL_COMMITS if is_full else rng.choice((5, 60, 300))
    files: list[bytes] = []
    for number in range(commits):
        length = rng.choice((1, 1, 2, 5, 20, 6000 if rng.random() < 0.02 else 3))
        keys = rng.randrange(min(length, 8) + 1)
        if is_full:
            # In format 1, only a row of the journal can be long.  It is made near the end,
            # because older rows are trimmed.
            is_long = is_old and number == commits - 2 * EARLIER_COUNT
            length = 6000 if is_long else rng.choice((1, 1, 2, 3))
            keys = min(length, 8)
        now(store.commit(batch_maker.batch(length, keys, key_length)))
        if number >= commits - EARLIER_COUNT - 1:
            files = [(path / "store" / DATA_FILE).read_bytes(), *files[:EARLIER_COUNT]]
    now(store.close())
    if is_old:
        files = [_in_format_1(path, data) for data in files]
    used_keys = tuple(batch_maker.used_keys)
    contents = _contents(path, files[0], used_keys)
    return Original(
        data=files[0],
        witness=(path / "store" / WITNESS_FILE).read_bytes(),
        earlier=tuple(files[1:]),
        contents=contents,
        earlier_contents=tuple(_contents(path, file, used_keys) for file in files[1:]),
        later=_contents(path, files[0], used_keys, make_later_commits),
        used_keys=used_keys,
    )


@contextmanager
def _store_with(path: Path, data: bytes) -> Iterator[Path]:
    """
    Provide a directory in C{path} with this data file, until the end of the block.
    """
    directory = path / "temporary"
    directory.mkdir()
    (directory / DATA_FILE).write_bytes(data)
    yield directory
    shutil.rmtree(directory)


def _in_format_1(path: Path, data: bytes) -> bytes:
    """
    Return the data file of a store with the same contents in format 1.
    """
    with _store_with(path, data) as directory:
        turn_back(directory)
        return (directory / DATA_FILE).read_bytes()


def _contents(
    path: Path,
    data: bytes,
    used_keys: tuple[bytes, ...],
    change: Callable[[LmdbStore], None] = lambda _: None,
) -> Contents:
    with _store_with(path, data) as directory:
        store = open_unverified(directory)
        change(store)
        contents = read(store, used_keys)
        now(store.close())
    return contents


def make_later_commits(store: LmdbStore) -> None:
    """
    Make some more commits, the same ones each time.
    """
    newest = now(store.history(ABOVE_ALL, 1))[0]
    rng = random.Random(newest.revision)  # noqa: S311 to be repeated
    batch_maker = BatchMaker(rng, (newest.revision, newest.position))
    for _ in range(LATER_COMMITS):
        now(store.commit(batch_maker.batch(20, 5, 40)))
