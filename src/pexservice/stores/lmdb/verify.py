"""
Read a whole store before trusting it.

LMDB maps the file into memory.  A page that is missing or unreadable is then no
error but a SIGBUS, so a store of unknown health is read in a process of its own
first: C{python -m pexservice.stores.lmdb.verify DIRECTORY}.  It writes nothing, and its
exit status is 0, 78 (C{EX_CONFIG}) when the store is damaged, or 1 when it cannot be
read; a line on standard output says what is wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb

from pexservice.stores.interface import StoreDamaged, StoreUnusable
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import DATA

#: The exit status that tells a supervisor not to try again.
DAMAGED_STATUS = 78

DATABASES = (b"cursor", b"journal", b"keys")

#: What reading a damaged map does to the process that reads it.
_DEADLY = {signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}

#: Errors that say nothing about the store itself.
_SURROUNDINGS = (
    OSError,
    lmdb.DiskError,
    lmdb.InvalidParameterError,
    lmdb.LockError,
    lmdb.MemoryError,
    lmdb.ReadersFullError,
    lmdb.ReadonlyError,
    lmdb.TlsFullError,
)


def verify(path: Path) -> None:
    """
    Read every page and every record of the store in C{path}.

    @raise StoreDamaged: something in it is not what was written.
    """
    try:
        if not (path / DATA).stat().st_size:
            # LMDB would take it for a store to be made.
            raise StoreDamaged(f"the store {path} is damaged: its file {DATA} is empty")
        # Without locks: the caller owns the directory.
        with lmdb.open(
            str(path), max_dbs=len(DATABASES), readonly=True, lock=False, create=False
        ) as env:
            _read_pages(env)
            _read_records(env)
    except (lmdb.Error, records.BadRecord, OSError) as error:
        raise blame(path, error) from error


def blame(path: Path, error: Exception) -> StoreUnusable:
    """
    Is the store in C{path} damaged, or is it what surrounds it?
    """
    if isinstance(error, _SURROUNDINGS) or type(error) is lmdb.Error:
        # LMDB's own class is what an errno becomes that has no class of its own.
        return StoreUnusable(f"the store {path} cannot be opened: {error}")
    return StoreDamaged(f"the store {path} is damaged: {error}")


def _read_pages(env: lmdb.Environment) -> None:
    """
    Touch every page in use, those of the free list included: a compacting copy
    reads them all.
    """
    with Path(os.devnull).open("wb") as nowhere:
        try:
            env.copyfd(nowhere.fileno(), compact=True)
        except lmdb.IncompatibleError:
            # A page that neither the data nor the free list knows.  It is lost
            # to use, and no record is on it.
            return


def _read_records(env: lmdb.Environment) -> None:
    cursor, journal, keys = (env.open_db(name, create=False) for name in DATABASES)
    with env.begin() as txn:
        revision, position = check_cursor(txn, cursor, journal)
        expected: tuple[int, int] | None = None
        for key, value in txn.cursor(journal):
            rows = records.read_row(key, value)
            start = (rows[0].revision, records.start_of_row(key, value))
            if expected not in (None, start):
                raise records.BadRecord(f"the journal breaks off before {start[0]}")
            expected = (rows[-1].revision + 1, rows[-1].position)
        if expected not in (None, (revision + 1, position)):
            raise records.BadRecord("the journal does not lead to the cursor")
        _read_keys(txn, keys)


def _read_keys(txn: lmdb.Transaction[bytes], keys: lmdb._Database) -> None:
    aged = named = 0
    for by, value in txn.cursor(keys):
        if by < records.OLDEST_AGE_KEY:
            records.read_remembered(by[1:], value)
            named += 1
        else:
            key = records.read_aged(by, value)
            found = txn.get(records.name_key(key), db=keys)
            if (
                found is None
                or records.age_key(records.read_remembered(key, found).revision) != by
            ):
                raise records.BadRecord("the idempotency keys contradict each other")
            aged += 1
    if aged != named:
        raise records.BadRecord(f"of {named} idempotency keys {aged} have an age")


def check_cursor(
    txn: lmdb.Transaction[bytes], cursor: lmdb._Database, journal: lmdb._Database
) -> tuple[int, int]:
    """
    Read the cursor, and replay the last journal row to see that it leads there.

    @return: (revision, position)
    @raise records.BadRecord: it does not.
    """
    value = txn.get(records.CURSOR_KEY, db=cursor)
    if value is None:
        raise records.BadRecord("it has no cursor")
    found = records.read_cursor(value)
    with txn.cursor(journal) as rows:
        if rows.last():
            last = records.read_row(*rows.item())[-1]
            if (last.revision, last.position) != found:
                raise records.BadRecord(
                    f"the journal ends at revision {last.revision} and position"
                    f" {last.position}, the cursor is at {found[0]} and {found[1]}"
                )
        elif found != (0, 0):
            raise records.BadRecord(f"the journal of {found[0]} transitions is empty")
    return found


def verify_in_child(path: Path) -> None:
    """
    L{verify}, survived whatever the store does to the process that reads it.
    """
    ask_child(path, "pexservice.stores.lmdb.verify", str(path))


def ask_child(path: Path, module: str, *arguments: str) -> None:
    """
    Have a process of its own look at the store in C{path}, and take its word.

    @param module: what it runs, which ends with what L{answer} says.
    @raise StoreUnusable: something is.
    """
    child = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = child.stdout.decode(errors="replace").strip()
    if child.returncode == DAMAGED_STATUS:
        raise StoreDamaged(said)
    if -child.returncode in _DEADLY:
        raise StoreDamaged(
            f"the store {path} is damaged: reading it ended by signal"
            f" {-child.returncode}; the file {DATA} may be shorter than it was"
        )
    if child.returncode < 0:
        # Somebody else's doing, as the kernel's when memory is short.
        raise StoreUnusable(
            f"the store {path} was not read: signal {-child.returncode} ended it"
        )
    if child.returncode:
        raise StoreUnusable(
            said.splitlines()[-1] if said else f"the store {path} cannot be verified"
        )


def answer(call: Callable[[], object], *also: type[Exception]) -> int:
    """
    What a process does that L{ask_child} has started: C{call}, and a line on standard
    output that says what is wrong.

    @param also: what else C{call} raises for that.
    @return: the exit status.
    """
    known: tuple[type[Exception], ...] = (StoreUnusable, *also)
    try:
        call()
    except known as error:
        sys.stdout.write(f"{error}\n")
        return DAMAGED_STATUS if isinstance(error, StoreDamaged) else 1
    return 0


if __name__ == "__main__":
    sys.exit(answer(lambda: verify(Path(sys.argv[1]))))
