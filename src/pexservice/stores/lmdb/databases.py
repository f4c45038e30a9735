"""
The LMDB environment of a store, the three databases in it, and the meaning of its errors.

An I{environment} is an open data file, which LMDB maps into memory.  The file cannot grow
beyond this I{map}.  A I{database} is a sorted mapping from keys to values.  The databases
of an environment share transactions: a commit writes cursor, journal and keys together.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.core.cursor import INITIAL
from pexservice.stores.errors import StoreDamaged, StoreError, StoreIncompatible
from pexservice.stores.interface import OldStateReader
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.file_system import make_reader_table
from pexservice.stores.lmdb.page_format import BadPage, OtherFile
from pexservice.stores.lmdb.records import BadRecord, OtherFormat

CURSOR_DATABASE = b"cursor"
DATABASES = (CURSOR_DATABASE, b"journal", b"keys")

#: The size of the map without the part for the journal.  100,000 keys of 255 characters
#: take 30 MB.  The rest is for commits during a backup, when LMDB does not reuse pages.
MIN_MAP_BYTES = 256 << 20

#: A line of LMDB's table of readers: process, thread, transaction.  The line of a reader
#: without an open transaction has no third number, so it does not match.
_READER = re.compile(r"^ *(\d+) +[0-9a-f]+ +(\d+)$", re.MULTILINE)

#: Errors that show damage: the store contains something that no commit wrote.  Other errors
#: of LMDB and of the system are no sign of damage.
DAMAGE_ERRORS = (
    BadPage,
    BadRecord,
    # Raised by a transaction that cannot read LMDB's record of a database.
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
)

_OTHER_FORMAT = (OtherFile, OtherFormat, lmdb.VersionMismatchError)

#: Everything that reading a store may raise.
LOW_LEVEL_ERRORS = (lmdb.Error, OSError, BadPage, BadRecord, OtherFile, OtherFormat)


@frozen
class Databases:
    env: lmdb.Environment
    cursor: lmdb._Database
    journal: lmdb._Database
    keys: lmdb._Database


def databases_of(env: lmdb.Environment) -> Databases:
    return Databases(env, *(env.open_db(name, create=False) for name in DATABASES))


def open_for_reading(path: Path, *, in_use: bool = False) -> lmdb.Environment:
    """
    Open the store in the directory C{path}.

    @param in_use: whether another process may write to the store meanwhile.  Then each
        transaction has an entry in LMDB's table of readers.
    """
    return lmdb.open(
        str(path),
        map_size=map_size_to_grow(path),
        max_dbs=len(DATABASES),
        readonly=True,
        lock=in_use,
        create=False,
    )


def map_size_to_grow(path: Path) -> int:
    """
    Return the size of a map in which the store in C{path} can grow to twice its size.
    """
    return MIN_MAP_BYTES + 2 * (path / DATA_FILE).stat().st_size


def open_for_writing(path: Path, map_size: int) -> Databases:
    """
    Open the store in the directory C{path}.

    @param map_size: how many bytes the data file may grow to.
    @raise OSError: the disk has no space for LMDB's table of readers.
    @raise StoreError: the table of readers cannot be locked.
    """
    make_reader_table(path)
    try:
        env = lmdb.open(
            str(path), map_size=map_size, max_dbs=len(DATABASES), create=False, mode=0o600
        )
    except lmdb.InvalidError as error:
        # LMDB raises this error if the store is damaged, and also if it cannot lock the
        # table of readers.  If the store is damaged, the next line raises the error again.
        open_for_reading(path).close()
        raise StoreError(f"the store {path} cannot be locked: {error}") from error
    try:
        return databases_of(env)
    except BaseException:
        env.close()
        raise


def make_store(path: Path) -> None:
    """
    Make a store with the cursor at 0 in C{path}, the staging directory.

    @raise OSError: the disk has no space for LMDB's table of readers.
    @raise StoreError: LMDB cannot make the store.
    """
    make_reader_table(path)
    try:
        with lmdb.open(
            str(path), map_size=MIN_MAP_BYTES, max_dbs=len(DATABASES), mode=0o600
        ) as env:
            cursor, _, _ = (env.open_db(name) for name in DATABASES)
            record = records.encode_cursor(INITIAL.cursor, 1)
            with env.begin(write=True) as txn:
                txn.put(records.CURSOR_KEY, record, db=cursor)
    except lmdb.Error as error:
        raise StoreError(f"the store {path.parent} cannot be made: {error}") from error


def used_bytes(env: lmdb.Environment) -> int:
    """
    Return the size of the part of the data file that was ever in use, free pages included.
    """
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def oldest_reader(env: lmdb.Environment) -> OldStateReader | None:
    """
    Return the process, other than this one, that reads the oldest state, if any.

    LMDB does not reuse a page that a process may still read.  So while a process, such as a
    slow or stopped backup, reads one state, the file grows with each commit.
    """
    this_process = str(os.getpid())
    snapshots = [
        (int(txn), int(pid))
        for pid, txn in _READER.findall(env.readers())
        if pid != this_process
    ]
    if not snapshots:
        return None
    txn, pid = min(snapshots)
    return OldStateReader(pid, env.info()["last_txnid"] - txn)


def as_store_error(path: Path, error: Exception) -> StoreError:
    """
    Return the exception for one of the L{LOW_LEVEL_ERRORS} of the store in C{path}.
    """
    if isinstance(error, _OTHER_FORMAT):
        return StoreIncompatible(f"the store {path} is of another format: {error}")
    if isinstance(error, DAMAGE_ERRORS):
        return StoreDamaged(f"the store {path} is damaged: {error}")
    reason = getattr(error, "strerror", None) or error
    return StoreError(f"the store {path} cannot be used: {reason}")
