"""
Damage to every page of a store: none is accepted and different.

A store is damaged in one of many ways, once with its witness and once as a bare copy.  Then
it is verified as a service does before it starts.  Each damage must be refused, or do no
harm: the store says what it said, also after some more commits, which must leave a whole
store.  A bare copy may also say what it said before the last commit; or before some of the
last ones, where the writes of all of them are gone, which nothing tells.

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
from contextlib import contextmanager, suppress
from enum import IntEnum
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
from tests.labs.damage.damages import DAMAGES, SIZE, older_pages
from tests.labs.damage.originals import Original, go_on, opened, original, read, result
from tests.support.evidence import Evidence, record

#: How many damages are tried on one store before another is made.
EACH = 100

#: Where files need no disk.
_MEMORY = Path("/dev/shm")  # noqa: S108 a directory of our own is made in it


class Outcome(IntEnum):
    """
    The outcome of a damage; also the exit status of the process that tried it.
    """

    #: The store is not used.
    REFUSED = 10
    #: The store is used, and says what it said.
    HARMLESS = 11
    #: The store is used, and says what it said before the last commit.
    STATE_BEFORE = 12
    #: The store is used, and says what it said some commits ago.
    EARLIER_STATE = 13
    #: The store is used, and says something else, at once or after some more commits.
    DIFFERENT = 14
    #: The store is used, and that ends by an error or a signal; or verifying it ends by an
    #: error that does not name the damage.
    BROKEN = 15


class Undetected(AssertionError):
    """
    A damage that was accepted and should not have been.
    """


@frozen
class Tried:
    """
    One damage that was tried.

    @ivar bare: the copy had no witness.
    """

    seed: int
    name: str
    page: int
    bare: bool
    outcome: Outcome

    @property
    def is_good(self) -> bool:
        """
        Return whether the outcome is allowed.
        """
        good = {Outcome.REFUSED, Outcome.HARMLESS}
        if self.bare:
            good.add(Outcome.STATE_BEFORE)
        if self.bare and self.name == older_pages.__name__:
            good.add(Outcome.EARLIER_STATE)
        return self.outcome in good


def run(first: int, count: int, *, checks: bool = True) -> Iterator[Tried]:
    """
    Try damages.

    @param first: the number of the first damage; its number decides about all of a damage.
    @param checks: if false, pages and witness are not looked at, nor are records looked up,
        as before these checks were there.
    """
    latest_original: tuple[int, Original] | None = None
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as place:
        for seed in range(first, first + count):
            number = seed // EACH
            if latest_original is None or latest_original[0] != number:
                shutil.rmtree(Path(place, "original"), ignore_errors=True)
                Path(place, "original").mkdir()
                latest_original = number, original(Path(place, "original"), number)
            yield _try(Path(place, "damaged"), latest_original[1], seed, checks=checks)


def _try(path: Path, whole: Original, seed: int, *, checks: bool) -> Tried:
    chance = random.Random(seed)  # noqa: S311 to be repeated
    damage = DAMAGES[seed % len(DAMAGES)]
    data = bytearray(whole.data)
    # One page after the other, and the meta pages more often.
    page = (seed // len(DAMAGES)) % (len(data) // SIZE)
    page = chance.choice((page, page, page, chance.randrange(2)))
    damage(data, page, whole, chance)
    bare = chance.random() < 0.5
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    (path / DATA_FILE).write_bytes(data)
    if not bare:
        (path / WITNESS_FILE).write_bytes(whole.witness)
    with _all_checks() if checks else _no_checks():
        outcome = _in_child(lambda accepted: _use(path, whole, accepted))
    return Tried(seed, damage.__name__, page, bare, outcome)


def _use(path: Path, whole: Original, accepted: Callable[[], object]) -> Outcome:
    """
    Verify a damaged store, and use it if it is accepted.
    """
    try:
        verify(path)
    except (StoreDamaged, StoreIncompatible):
        return Outcome.REFUSED
    accepted()
    store = opened(path)
    contents = read(store, whole.names)
    if contents == whole.earlier_contents[0]:
        return Outcome.STATE_BEFORE
    if contents in whole.earlier_contents:
        return Outcome.EARLIER_STATE
    if contents != whole.contents:
        return Outcome.DIFFERENT
    go_on(store)
    contents = read(store, whole.names)
    result(store.close())
    verify(path)
    return Outcome.HARMLESS if contents == whole.later else Outcome.DIFFERENT


def _in_child(use: Callable[[Callable[[], object]], Outcome]) -> Outcome:
    """
    Use a store in its own process, which may die of it.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status: int = Outcome.BROKEN
        try:
            # How a process dies of a damage is no news.
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            status = use(lambda: os.write(writing, b"1"))
        finally:
            # Without the traceback of an exception: the outcome tells enough.
            os._exit(status)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    accepted = bool(os.read(reading, 1))
    os.close(reading)
    if status > 0:
        return Outcome(status)
    # A service, too, has its store verified by a process that may die of it.
    return Outcome.BROKEN if accepted else Outcome.REFUSED


@contextmanager
def _all_checks() -> Iterator[None]:
    yield


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


def lab(count: int, first: int = 0) -> Counter[Outcome]:
    """
    Try C{count} damages.

    @raise Undetected: one of them was accepted and should not have been.
    """
    outcomes: Counter[Outcome] = Counter()
    bad: list[Tried] = []
    for tried in run(first, count):
        outcomes[tried.outcome] += 1
        if not tried.is_good:
            bad.append(tried)
            print(tried, flush=True)
    if bad:
        raise Undetected(bad)
    record(
        Evidence(
            name="damage",
            promise="A damaged store is refused, unless the damage is in unused space: no"
            " accepted store has another state than before.",
            size=count,
            unit="damages to every kind of page, in formats 1 and 2",
            result=f"{outcomes[Outcome.REFUSED]:,} refused,"
            f" {outcomes[Outcome.HARMLESS]:,} of no consequence,"
            f" {outcomes[Outcome.STATE_BEFORE]:,} bare copies at the state before the last"
            f" commit and {outcomes[Outcome.EARLIER_STATE]} at an earlier one; none"
            " accepted and different",
            command="make damage",
        )
    )
    return outcomes


def main() -> None:
    """
    Run the long form.
    """
    numbers = [int(argument) for argument in sys.argv[1:]]
    outcomes = lab(*(numbers or [10_000]))
    print({outcome.name: number for outcome, number in sorted(outcomes.items())})


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
