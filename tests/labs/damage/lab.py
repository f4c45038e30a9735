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

from pexservice.stores.errors import StoreDamaged, StoreIncompatible
from pexservice.stores.lmdb import verify as verification
from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE
from pexservice.stores.lmdb.pages import Contents as PageContents
from pexservice.stores.lmdb.verify import verify
from tests.labs.damage.originals import (
    Original,
    make_later_commits,
    make_original,
    open_unverified,
    read,
)
from tests.support.evidence import record
from tests.support.fakes import now

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
