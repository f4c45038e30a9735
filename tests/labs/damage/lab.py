"""
Damage to every page of a store: a damaged store is refused, or it has the same state.

A store is damaged in one of many ways, and half of the copies have no witness.  Then it is
verified as in a start of the service.  The damage must be found or do no harm: the store
has the same contents, also after some more commits, which leave a valid store.  Without a
witness, the store may have the state before the last commit.  It may also have a state from
some commits ago if all later writes are undone, because nothing in the file shows this.

C{python -m tests.labs.damage.lab [DAMAGES] [FIRST]} is the long form.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from enum import IntEnum
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import lmdb
from attrs import frozen

from pexservice.core.cursor import Cursor, Transition, position_after
from pexservice.stores.errors import StoreDamaged, StoreIncompatible
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.lmdb import verify as verification
from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE, Directory
from pexservice.stores.lmdb.migrate import rewrite
from pexservice.stores.lmdb.pages import Contents as PageContents
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.lmdb.verify import verify
from pexservice.stores.remembered_keys import KeyUse, pack_use
from tests.support.evidence import record
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


#: The size of a page on the test's machine.
PAGE_SIZE = 4096

Damage = Callable[[bytearray, int, Original, random.Random], None]

#: The most important bytes of a page: its header and the offsets of its records.
_HEAD_BYTES = 48


def _at(page: int, offset: int = 0) -> slice:
    """
    Return the slice of a page from C{offset} on.
    """
    return slice(page * PAGE_SIZE + offset, (page + 1) * PAGE_SIZE)


def one_bit(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Flip one bit.
    """
    data[page * PAGE_SIZE + rng.randrange(PAGE_SIZE)] ^= 1 << rng.randrange(8)


def one_bit_of_the_head(
    data: bytearray, page: int, _: Original, rng: random.Random
) -> None:
    """
    Flip one bit in the head of a page, or anywhere in the records of a meta page.
    """
    length = 152 if page < 2 else _HEAD_BYTES
    data[page * PAGE_SIZE + rng.randrange(length)] ^= 1 << rng.randrange(8)


def bits(data: bytearray, page: int, original: Original, rng: random.Random) -> None:
    """
    Flip some bits, the first one in this page.
    """
    for _ in range(rng.randrange(2, 6)):
        one_bit(data, page, original, rng)
        page = rng.randrange(len(data) // PAGE_SIZE)


def zero_byte(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Zero one byte that is not zero.
    """
    offsets = range(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
    nonzero_offsets = [offset for offset in offsets if data[offset]]
    if nonzero_offsets:
        data[rng.choice(nonzero_offsets)] = 0


def zero_page(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Zero the page, or the end of it.
    """
    page_start = page * PAGE_SIZE + rng.choice((0, 0, 512, 2048))
    data[page_start : (page + 1) * PAGE_SIZE] = bytes((page + 1) * PAGE_SIZE - page_start)


def swap(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Exchange two pages; in half of the cases, each keeps its page number.
    """
    other = rng.randrange(len(data) // PAGE_SIZE)
    kept_bytes = rng.choice((0, 8))
    first, second = page * PAGE_SIZE + kept_bytes, other * PAGE_SIZE + kept_bytes
    length = PAGE_SIZE - kept_bytes
    first_page = data[first : first + length]
    data[first : first + length] = data[second : second + length]
    data[second : second + length] = first_page


def overwrite(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Overwrite this page with a copy of another page; sometimes it keeps its number.
    """
    other = rng.randrange(len(data) // PAGE_SIZE)
    kept_bytes = rng.choice((0, 8))
    data[_at(page, kept_bytes)] = data[_at(other, kept_bytes)]


def older_page(data: bytearray, page: int, original: Original, rng: random.Random) -> None:
    """
    Restore this page from some commits ago, as if a write had been lost.
    """
    _put_back(data, [page], rng.choice(original.earlier))


def older_pages(data: bytearray, page: int, original: Original, rng: random.Random) -> None:
    """
    Restore this page and some of the pages that the last commits changed.

    The result is like a store after some lost writes.

    If several commits are undone, one of the meta pages stays.  With both meta pages, the
    damaged file could be a complete store of that time, like a copy that an operator made.
    """
    earlier = rng.choice(original.earlier)
    numbers = range(min(len(earlier), len(data)) // PAGE_SIZE)
    changed = [number for number in numbers if data[_at(number)] != earlier[_at(number)]]
    lost = {page, *rng.sample(changed, rng.randrange(len(changed) + 1))}
    if earlier is not original.earlier[0] and {0, 1} <= lost:
        lost.discard(rng.randrange(2))
    _put_back(data, sorted(lost), earlier)


def _put_back(data: bytearray, pages: list[int], earlier: bytes) -> None:
    for page in pages:
        earlier_page = earlier[_at(page)]
        data[page * PAGE_SIZE : page * PAGE_SIZE + len(earlier_page)] = earlier_page


def cut(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Truncate the file at the begin of the page, or within the page.
    """
    del data[page * PAGE_SIZE + rng.choice((0, rng.randrange(PAGE_SIZE))) :]


DAMAGES: tuple[Damage, ...] = (
    *(one_bit, one_bit_of_the_head, one_bit_of_the_head, bits, zero_byte, zero_page),
    *(swap, overwrite, older_page, older_page, older_pages, cut),
)


#: How many damages are tried on one store before another store is made.
DAMAGES_PER_STORE = 100

#: A directory in memory, if there is one.
_MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108 the test makes its own directory in it


class Outcome(IntEnum):
    """
    The outcome of a damage, which is also the exit status of the process that tried it.
    """

    #: The store is refused.
    REFUSED = 10
    #: The store is used, and has the same contents.
    HARMLESS = 11
    #: The store is used, and has the contents before the last commit.
    STATE_BEFORE = 12
    #: The store is used, and has the contents from some commits ago.
    EARLIER_STATE = 13
    #: The store is used, and has other contents, at once or after some more commits.
    DIFFERENT = 14
    #: An error or a signal ended the use of the store, or the verification failed with an
    #: error that does not report damage.
    BROKEN = 15


@frozen
class Trial:
    """
    One damage and its outcome.
    """

    seed: int
    name: str
    page: int
    without_witness: bool
    outcome: Outcome

    @property
    def is_good(self) -> bool:
        good = {Outcome.REFUSED, Outcome.HARMLESS}
        if self.without_witness:
            good.add(Outcome.STATE_BEFORE)
        if self.without_witness and self.name == older_pages.__name__:
            good.add(Outcome.EARLIER_STATE)
        return self.outcome in good


def try_damages(first: int, count: int, *, checks: bool = True) -> Iterator[Trial]:
    """
    Try damages.

    @param first: the number of the first damage; everything about a damage follows from its
        number.
    @param checks: if false, neither pages nor the witness are checked, and no records are
        looked up, as in a version without these checks.
    """
    memory = _MEMORY_DIRECTORY if _MEMORY_DIRECTORY.is_dir() else None
    seeds = range(first, first + count)
    for number, seeds_of_store in groupby(seeds, lambda seed: seed // DAMAGES_PER_STORE):
        with tempfile.TemporaryDirectory(dir=memory) as directory:
            original = make_original(Path(directory), number)
            for seed in seeds_of_store:
                yield _try(Path(directory, "damaged"), original, seed, checks=checks)


def _try(path: Path, original: Original, seed: int, *, checks: bool) -> Trial:
    rng = random.Random(seed)  # noqa: S311 to be repeated
    damage = DAMAGES[seed % len(DAMAGES)]
    data = bytearray(original.data)
    # One page after the other, but the meta pages more often.
    page = (seed // len(DAMAGES)) % (len(data) // PAGE_SIZE)
    page = rng.choice((page, page, page, rng.randrange(2)))
    damage(data, page, original, rng)
    without_witness = rng.random() < 0.5
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    (path / DATA_FILE).write_bytes(data)
    if not without_witness:
        (path / WITNESS_FILE).write_bytes(original.witness)
    with nullcontext() if checks else _no_checks():
        outcome = _in_child(lambda accepted: _use(path, original, accepted))
    return Trial(seed, damage.__name__, page, without_witness, outcome)


def _use(path: Path, original: Original, accepted: Callable[[], object]) -> Outcome:
    """
    Verify a damaged store, and use it if the verification succeeds.
    """
    try:
        verify(path)
    except (StoreDamaged, StoreIncompatible):
        return Outcome.REFUSED
    accepted()
    store = open_unverified(path)
    contents = read(store, original.used_keys)
    if contents == original.earlier_contents[0]:
        return Outcome.STATE_BEFORE
    if contents in original.earlier_contents:
        return Outcome.EARLIER_STATE
    if contents != original.contents:
        return Outcome.DIFFERENT
    make_later_commits(store)
    contents = read(store, original.used_keys)
    now(store.close())
    verify(path)
    return Outcome.HARMLESS if contents == original.later else Outcome.DIFFERENT


def _in_child(use: Callable[[Callable[[], object]], Outcome]) -> Outcome:
    """
    Use a store in a child process, because the damage may kill the process.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status: int = Outcome.BROKEN
        try:
            # Write no traceback for a signal or an exception: the outcome is enough.
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            status = use(lambda: os.write(writing, b"1"))
        finally:
            os._exit(status)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    accepted = bool(os.read(reading, 1))
    os.close(reading)
    if status > 0:
        return Outcome(status)
    # In a service, too, a child process verifies the store.
    return Outcome.BROKEN if accepted else Outcome.REFUSED


@contextmanager
def _no_checks() -> Iterator[None]:
    def trust(path: Path, _: object) -> PageContents:
        with lmdb.open(
            str(path), max_dbs=3, readonly=True, lock=False, create=False
        ) as env:
            transaction = env.info()["last_txnid"]
        return PageContents(transaction, dict.fromkeys(DATABASES, 1))

    def plainly(self: verification._Reader, database: object) -> object:
        return iter(self._txn.cursor(database))  # type: ignore[arg-type]

    with (
        patch.object(verification, "check_pages", trust),
        patch.object(verification, "check_not_older", lambda *_: None),
        patch.object(verification._Reader, "items", plainly),
        patch("pexservice.stores.lmdb.witness.check_not_older", lambda *_: None),
    ):
        yield


def damage_stores(count: int, first: int = 0) -> Counter[Outcome]:
    """
    Try C{count} damages, and write down the evidence.

    @raise AssertionError: a damaged store was accepted.
    """
    outcomes: Counter[Outcome] = Counter()
    undetected: list[Trial] = []
    for trial in try_damages(first, count):
        outcomes[trial.outcome] += 1
        if not trial.is_good:
            undetected.append(trial)
            print(trial, flush=True)
    if undetected:
        raise AssertionError(undetected)
    record(
        "damage",
        promise="A damaged store is refused, unless the damage is in unused space: no"
        " accepted store has another state than before.",
        size=count,
        unit="damages to every kind of page, in formats 1 and 2",
        result=f"{outcomes[Outcome.REFUSED]:,} refused,"
        f" {outcomes[Outcome.HARMLESS]:,} of no consequence,"
        f" {outcomes[Outcome.STATE_BEFORE]:,} bare copies at the state before the last"
        f" commit and {outcomes[Outcome.EARLIER_STATE]} at an earlier one; none"
        " accepted and different",
    )
    return outcomes


def main() -> None:
    arguments = [int(argument) for argument in sys.argv[1:]]
    outcomes = damage_stores(*(arguments or [10_000]))
    print({outcome.name: number for outcome, number in sorted(outcomes.items())})


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
