"""
Make a backup of a store, even while a service uses it, and remove old backups.

In LMDB, readers and the writer do not wait for each other, even in two processes.  So the
service continues during a backup, and the copy has one committed state.  Meanwhile, LMDB
does not reuse the pages of that state, so the file of the store grows with each commit.
The copy is flushed only once, at its end, so that it takes less time.

A child process copies the pages.  If a page is missing, only the child ends; see
L{pexservice.stores.lmdb.child}.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import lmdb

from pexservice.stores.errors import StoreDamaged, StoreError
from pexservice.stores.factory_interface import ShowProgress, StoreSummary
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.child import Progress, run_child
from pexservice.stores.lmdb.databases import DATABASES, MIN_MAP_BYTES
from pexservice.stores.lmdb.directory import (
    DATA_FILE,
    READER_TABLE_FILE,
    WITNESS_FILE,
    Directory,
    directory_with_store,
    sync_directory,
)
from pexservice.stores.lmdb.records import WitnessRecord
from pexservice.stores.lmdb.snapshot import copy_snapshot
from pexservice.stores.lmdb.verify import as_store_error, summary, verify_in_child
from pexservice.stores.lmdb.witness import check_not_older, read_witness

#: The names of the backups that L{add_backup} makes.  Their order is the order of time.
#: Version 1.0.0 made names without microseconds.
_TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
_BACKUP_NAME = re.compile(r"[0-9]{8}T[0-9]{6}(\.[0-9]{6})?Z")


def backup(source: str, target: str, show: ShowProgress = lambda *_: None) -> StoreSummary:
    """
    Copy the store in C{source} to C{target}, which must not exist, and verify the copy.

    If the backup fails, there is no C{target}.

    @raise StoreError: C{target} exists, or the store or its copy is damaged.
    """
    store = directory_with_store(source).real_path
    # The witness is read before the store is copied, so the copy must not be older.
    witnessed = read_witness(store)
    place = Path(os.path.abspath(target))  # noqa: PTH100 keeps a symbolic link
    if os.path.lexists(place):
        raise StoreError(f"{place} already exists; choose another path")
    copy = place.parent / f".{place.name}.partial-{secrets.token_hex(8)}"
    try:
        copy.mkdir(mode=0o700)
        run_child(copy_pages, store, copy / DATA_FILE, progress=partial(show, "copying"))
        try:
            verify_in_child(copy, partial(show, "verifying"))
        except StoreDamaged as error:
            raise StoreDamaged(
                f"the store {store} is damaged, and its copy was removed: {error}"
            ) from None
        revision = summary(copy).revision
        check_not_older(store, revision, witnessed)
        with (copy / WITNESS_FILE).open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(records.encode_witness(WitnessRecord(revision)))
            file.flush()
            os.fsync(file.fileno())
        sync_directory(copy)
        copy.rename(place)
        sync_directory(place.parent)
    except OSError as error:
        raise StoreError(f"the backup {place}: {error.strerror}") from error
    finally:
        if copy.exists():
            shutil.rmtree(copy)
    return summary(place)


def copy_pages(source: Path, file: Path, progress: Progress = lambda _: None) -> None:
    """
    Write the pages in use of the store in C{source} to C{file}, durably.

    @raise StoreError: the pages cannot be read or written.
    """
    directory = Directory(str(source))
    # An entry in LMDB's table of readers prevents the service from reusing the pages that
    # are read here.  If there is no table, no process has the store open, and the directory
    # is locked instead.  No table is made: it would belong to the user who makes the
    # backup.
    has_readers_table = (directory.real_path / READER_TABLE_FILE).exists()
    if not has_readers_table:
        directory.lock()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with lmdb.open(
                str(source),
                # The map is larger than the file, which may grow before it is read.
                map_size=MIN_MAP_BYTES + 2 * (source / DATA_FILE).stat().st_size,
                max_dbs=len(DATABASES),
                readonly=True,
                lock=has_readers_table,
                create=False,
            ) as env:
                copy_snapshot(env, descriptor, progress)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (lmdb.Error, OSError) as error:
        if isinstance(reason := as_store_error(source, error), StoreDamaged):
            raise reason from error
        raise StoreError(f"the store {source} cannot be copied: {error}") from error
    finally:
        directory.unlock()


def add_backup(
    source: str, directory: str, keep: int, show: ShowProgress = lambda *_: None
) -> StoreSummary:
    """
    Make a verified backup in C{directory}, and then remove the oldest backups.

    @param keep: how many backups are kept, including the new one; 1 or more.
    @raise StoreError: the backup could not be made, and no backup was removed; or the
        backup was made, and an old backup could not be removed.
    """
    name = datetime.now(UTC).strftime(_TIME_FORMAT)
    newest = backup(source, str(Path(directory, name)), show)
    try:
        for old in existing_backups(directory)[:-keep]:
            shutil.rmtree(old)
    except OSError as error:
        raise StoreError(
            f"{newest.store} is a verified backup, but an old one stays: {error}"
        ) from error
    return newest


def existing_backups(directory: str) -> list[Path]:
    """
    List the backups that L{add_backup} made in C{directory}, the oldest first.
    """
    return sorted(
        path
        for path in Path(directory).iterdir()
        if _BACKUP_NAME.fullmatch(path.name) and (path / DATA_FILE).exists()
    )


def time_of(path: Path) -> float:
    """
    Read from its name when a backup was begun, in seconds since 1970.
    """
    form = _TIME_FORMAT if "." in path.name else _TIME_FORMAT.replace(".%f", "")
    return datetime.strptime(path.name, form).replace(tzinfo=UTC).timestamp()
