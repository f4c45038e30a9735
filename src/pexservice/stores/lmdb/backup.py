"""
Make a backup of a store, and remove old backups.

A backup is made under a temporary name, for example C{.tuesday.partial-77a4c8}, and gets
its name when it is complete and verified.  So each backup is a whole store.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pexservice.stores.errors import StoreError
from pexservice.stores.factory_interface import ShowProgress, StoreSummary
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.file_system import sync_directory
from pexservice.stores.lmdb.snapshot import copy_store
from pexservice.stores.lmdb.verify import summary

#: The names of the backups that L{add_backup} makes.  Their order is the order of time.
#: Version 1.0.0 made names without microseconds.
_TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
_BACKUP_NAME = re.compile(r"[0-9]{8}T[0-9]{6}(\.[0-9]{6})?Z")

#: The temporary name of such a backup.
_PARTIAL_NAME = re.compile(rf"\.{_BACKUP_NAME.pattern}\.partial-[0-9a-f]{{16}}")

#: A copy that is older belongs to a killed process, because no copy takes so long.
_MAX_PARTIAL_AGE = timedelta(days=1)


def backup(source: str, target: str, show: ShowProgress = lambda *_: None) -> StoreSummary:
    """
    Copy the store in C{source} to C{target}, which must not exist, and verify the copy.

    If the copy cannot be made or verified, there is no C{target}.

    @raise StoreError: C{target} exists or is inside the store, or the store or its copy is
        damaged.
    """
    place = Path(os.path.abspath(target))  # noqa: PTH100 keeps a symbolic link
    if os.path.lexists(place):
        raise StoreError(f"{place} already exists; choose another path")
    if place.parent.resolve().is_relative_to(Path(source).resolve()):
        raise StoreError(f"{place} is inside the store {source}; choose another path")
    copy = place.parent / f".{place.name}.partial-{secrets.token_hex(8)}"
    try:
        copy_store(source, copy, show)
        copy.rename(place)
        sync_directory(place.parent)
    except OSError as error:
        # Another process may have made this backup meanwhile.
        exists = error.errno == errno.ENOTEMPTY
        reason = "it already exists" if exists else error.strerror
        raise StoreError(f"the backup {place}: {reason}") from error
    finally:
        if copy.exists():
            shutil.rmtree(copy)
    return summary(place)


def add_backup(
    source: str, directory: str, keep: int, show: ShowProgress = lambda *_: None
) -> StoreSummary:
    """
    Make a verified backup in C{directory}, and then remove the oldest backups.

    @param keep: how many backups are kept, including the new one; 1 or more.
    @raise StoreError: the backup could not be made, and no old backup was removed; or the
        backup was made, but an old one could not be removed.  The message says which.
    """
    if not Path(directory).is_dir():
        raise StoreError(f"--keep requires a directory, and {directory} is none")
    now = datetime.now(UTC)
    newest = backup(source, str(Path(directory, now.strftime(_TIME_FORMAT))), show)
    oldest_partial = f".{now - _MAX_PARTIAL_AGE:{_TIME_FORMAT}}"
    # A killed process could not remove its copy.
    partial = [
        path
        for path in Path(directory).iterdir()
        if _PARTIAL_NAME.fullmatch(path.name) and path.name < oldest_partial
    ]
    for old in [*existing_backups(directory)[:-keep], *partial]:
        try:
            shutil.rmtree(old)
        except OSError as error:
            raise StoreError(
                f"{newest.store} is a verified backup, but the old one {old} stays:"
                f" {error.strerror or error}"
            ) from error
    return newest


def existing_backups(directory: str) -> list[Path]:
    """
    List the backups that L{add_backup} made in C{directory}, the oldest first.
    """
    return sorted(
        path
        for path in Path(directory).iterdir()
        if _BACKUP_NAME.fullmatch(path.name)
        and (path / DATA_FILE).exists()
        and not path.is_symlink()
    )


def time_of(path: Path) -> float:
    """
    Return when a backup was begun, in seconds since 1970.  Its name contains this time.
    """
    return datetime.fromisoformat(path.name).timestamp()
