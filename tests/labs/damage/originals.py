"""
Whole stores, what they say, and what they would say later.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pexservice.core.cursor import Cursor, Transition, position_after
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE, Directory
from pexservice.stores.lmdb.migrate import rewrite
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.remembered_keys import KeyUse, pack_use
from tests.support.fakes import ABOVE_ALL
from tests.support.format_1 import turn_back
from tests.support.inline_executor import inline

#: How many transitions and keys a store keeps: so few that trimming is at work.
KEPT = 600

#: How many of the last commits' files are kept, to put pages of them back.
EARLIER = 5

#: How many commits are made on a damaged store that was accepted.
LATER = 12

#: How many commits fill a store to the limits of its journal and its keys, and more: the
#: oldest rows are trimmed, and their pages are free.
FULL_COMMITS = 1500

#: Of so many originals, one has each combination of format and size.
KINDS = 4


@frozen
class Contents:
    """
    All that a store says: its cursor, its history and its keys.
    """

    cursor: tuple[int, int]
    history: tuple[HistoryEntry, ...]
    keys: tuple[KeyUse | None, ...]


@frozen
class Original:
    """
    A whole store.

    @ivar data: its file.
    @ivar witness: its witness.
    @ivar earlier: the file after each of the commits before the last, newest first.
    @ivar contents: what it says.
    @ivar earlier_contents: the contents before each of the last commits, newest first.
    @ivar later: what it says after some more commits.
    @ivar names: every idempotency key that was used.
    """

    data: bytes
    witness: bytes
    earlier: tuple[bytes, ...]
    contents: Contents
    earlier_contents: tuple[Contents, ...]
    later: Contents
    names: tuple[bytes, ...]


def opened(path: Path) -> LmdbStore:
    """
    Return a store that is opened without being verified.

    One of format 1 is rewritten by this process: the start of another one takes longer than
    all the rest.
    """
    store = LmdbStore(
        Directory(str(path)), inline(), journal=KEPT, kept_keys=KEPT, verify=None
    )
    with patch("pexservice.stores.lmdb.migrate.run_child", _rewrite_here):
        result(store.open())
    return store


def _rewrite_here(_: object, source: Path, new: Path, **__: object) -> None:
    rewrite(source, new, lambda _: None)


def result(deferred: Deferred[Any]) -> Any:
    """
    Return the result that C{deferred} has already, or raise its failure.
    """
    results: list[Any] = []
    deferred.addBoth(results.append)
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def read(store: LmdbStore, names: tuple[bytes, ...]) -> Contents:
    """
    Return all that C{store} says.
    """
    history = tuple(result(store.history(ABOVE_ALL, 10 * KEPT)))
    cursor = (history[0].revision, history[0].position)
    return Contents(cursor, history, tuple(map(store.remembered_keys.find, names)))


class Writer:
    """
    A maker of batches that chance chooses.
    """

    def __init__(self, chance: random.Random, cursor: tuple[int, int]) -> None:
        self.names: list[bytes] = []
        self._chance = chance
        self._revision, self._position = cursor

    def batch(self, length: int, keys: int, name_length: int) -> Batch:
        """
        Return the next batch, with C{keys} new keys.
        """
        before = Cursor(self._revision, self._position)
        codes, used = bytearray(), {}
        for number in range(length):
            transition = self._chance.choices(list(Transition), (8, 4, 1))[0]
            codes += transition.code
            self._revision += 1
            self._position = position_after(self._position, transition)
            if number < keys:
                name = b"%0*d" % (name_length, self._chance.getrandbits(60))
                self.names.append(name)
                used[name] = pack_use(transition.code, self._revision, self._position)
        after = Cursor(self._revision, self._position)
        return Batch(before, bytes(codes), after, before.revision + 1, used)


def original(path: Path, seed: int) -> Original:
    """
    Make a store in the directory C{path}, another one for each seed.

    Every second store has format 1, in which version 1.0.0 has left it.  Two stores of four
    are full, with long keys: their journal and their keys have been trimmed, and their
    trees have pages of all kinds, in format 1 on three levels.  The others have from a few
    pages to hundreds, with long rows and short ones.
    """
    chance = random.Random(seed)  # noqa: S311 to be repeated
    is_old, is_full = bool(seed % 2), seed % KINDS >= KINDS // 2
    store = opened(path / "store")
    writer = Writer(chance, (0, 0))
    name_length = 250 if is_full else chance.choice((20, 20, 60, 250))
    commits = FULL_COMMITS if is_full else chance.choice((5, 60, 300))
    files: list[bytes] = []
    for number in range(commits):
        length = chance.choice((1, 1, 2, 5, 20, 6000 if chance.random() < 0.02 else 3))
        keys = chance.randrange(min(length, 8) + 1)
        if is_full:
            # In format 1 only a row of the journal is long.  Older rows are trimmed.
            is_long = is_old and number == commits - 2 * EARLIER
            length = 6000 if is_long else chance.choice((1, 1, 2, 3))
            keys = min(length, 8)
        result(store.commit(writer.batch(length, keys, name_length)))
        if number >= commits - EARLIER - 1:
            files = [(path / "store" / DATA_FILE).read_bytes(), *files[:EARLIER]]
    result(store.close())
    if is_old:
        files = [_in_format_1(path / "old", data) for data in files]
    names = tuple(writer.names)
    contents = _contents(path, files[0], names)
    return Original(
        data=files[0],
        witness=(path / "store" / WITNESS_FILE).read_bytes(),
        earlier=tuple(files[1:]),
        contents=contents,
        earlier_contents=tuple(_contents(path, file, names) for file in files[1:]),
        later=_contents(path, files[0], names, go_on),
        names=names,
    )


def _in_format_1(place: Path, data: bytes) -> bytes:
    """
    Return the file of a store with the same contents in format 1.
    """
    place.mkdir()
    (place / DATA_FILE).write_bytes(data)
    turn_back(place)
    data = (place / DATA_FILE).read_bytes()
    shutil.rmtree(place)
    return data


def _contents(
    path: Path,
    data: bytes,
    names: tuple[bytes, ...],
    change: Callable[[LmdbStore], None] | None = None,
) -> Contents:
    place = path / "read"
    place.mkdir()
    (place / DATA_FILE).write_bytes(data)
    store = opened(place)
    if change is not None:
        change(store)
    contents = read(store, names)
    result(store.close())
    shutil.rmtree(place)
    return contents


def go_on(store: LmdbStore) -> None:
    """
    Make some more commits, the same ones each time.
    """
    newest = result(store.history(ABOVE_ALL, 1))[0]
    chance = random.Random(newest.revision)  # noqa: S311 to be repeated
    writer = Writer(chance, (newest.revision, newest.position))
    for _ in range(LATER):
        result(store.commit(writer.batch(20, 5, 40)))
