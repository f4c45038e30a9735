"""
Put a backup in the place of a store.

A copy of the backup is made next to the store and verified.  Then one system call exchanges
the directories of the copy and of the store.  So at every moment, the path leads to the old
store or to the new one.  If there were a moment without a store, a service could create a
store at revision 0.  The replaced store is kept under another name.

Clients may have seen higher revisions than that of the backup.  The restored store would
use these revisions again for other states.  To prevent that, C{--beyond} commits steps
until the revision is higher than all revisions that clients have seen.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.errors import (
    OutcomeUnknown,
    Refusal,
    StoreBusy,
    StoreDamaged,
    StoreError,
)
from pexservice.stores.factory_interface import Restored, ShowProgress, StoreSummary
from pexservice.stores.interface import Batch
from pexservice.stores.lmdb.child import Progress
from pexservice.stores.lmdb.databases import map_size_to_grow
from pexservice.stores.lmdb.directory import Directory, directory_with_store
from pexservice.stores.lmdb.file_system import chown_like, sync_directory
from pexservice.stores.lmdb.migrate import migrate
from pexservice.stores.lmdb.opened_store import OpenedStore
from pexservice.stores.lmdb.snapshot import copy_store
from pexservice.stores.lmdb.transaction import Retention, read_format_at
from pexservice.stores.lmdb.verify import summary

#: RENAME_EXCHANGE, of linux/fs.h, and AT_FDCWD, of fcntl.h.
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

#: How many steps one commit makes: an even number.
_BATCH_STEPS = 1 << 20

#: How many steps a restore makes at most.
MAX_STEPS = 100_000_000

#: The steps of a restore remove no transitions and keys.
_KEEP_ALL = Retention(transitions=1 << 40, keys=1 << 40)


def restore(
    source: str,
    target: str,
    above_revision: int | None = None,
    show: ShowProgress = lambda *_: None,
) -> Restored:
    """
    Put a copy of the backup in C{source} in the place of the store in C{target}.

    @param above_revision: the highest revision that any client has seen.  Steps bring the
        restored store above this revision.
    @raise StoreBusy: a service uses the store in C{target}.
    @raise StoreError: the backup is damaged, C{target} cannot be replaced, or C{target}
        holds something that is not a store.
    """
    directory_with_store(source)
    place = Directory(target)
    existed = place.real_path.exists()
    if place.real_path.is_relative_to(Path(source).resolve()):
        raise StoreError(f"the backup {source} is the store itself, or contains it")
    try:
        place.lock()
    except StoreBusy as error:
        raise StoreBusy(f"{error}; stop the service first") from None
    prefix = f".{place.real_path.name}.restored-"
    copy = place.real_path.parent / f"{prefix}{secrets.token_hex(8)}"
    try:
        # A store that has lost its data file may be replaced.
        with suppress(StoreDamaged):
            place.find_store()
        # This process has locked the directory, so no other restore needs these copies.
        for left_over in place.real_path.parent.glob(f"{prefix}{'[0-9a-f]' * 16}"):
            shutil.rmtree(left_over)
        copied = copy_store(source, copy, show)
        steps = _count_steps(copied.revision, above_revision)
        _migrate_and_step(copied, steps, partial(show, "rewriting"))
        chown_like(place.real_path, copy)
        kept = _exchange(copy, place.real_path)
        return Restored(summary=summary(place.real_path), steps=steps, kept=kept)
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise StoreError(
            f"the store {place.configured_path} cannot be replaced: {error.strerror}"
            + ("; its parent directory has to be writable, as to root" if denied else "")
        ) from error
    finally:
        if copy.exists():
            shutil.rmtree(copy)
        place.unlock()
        if not existed and place.real_path.exists() and not any(place.real_path.iterdir()):
            place.real_path.rmdir()


def _count_steps(revision: int, above_revision: int | None) -> int:
    """
    Return how many steps, an even number, raise C{revision} above C{above_revision}.
    """
    if above_revision is None or above_revision < revision:
        return 0
    steps = above_revision + 1 - revision
    # Half of the steps are next and half are previous, so the position does not change.
    steps += steps % 2
    if steps > MAX_STEPS:
        raise StoreError(
            f"--beyond {above_revision}: that is {steps} steps from revision {revision},"
            f" and at most {MAX_STEPS} are made; is it the right backup?"
        )
    return steps


def _migrate_and_step(copied: StoreSummary, steps: int, progress: Progress) -> None:
    directory = Directory(copied.store)
    directory.lock()
    try:
        directory.use_store()
        if read_format_at(directory.real_path) == 1:
            migrate(directory, progress)
        if steps:
            _make_steps(directory, steps)
    finally:
        directory.unlock()


def _make_steps(directory: Directory, steps: int) -> None:
    """
    Make C{steps}, an even number, in the copy, which is in the locked C{directory}.

    @raise StoreError: the disk has no space for the steps.
    """
    map_size = map_size_to_grow(directory.real_path) + 2 * steps
    store = OpenedStore(directory, _KEEP_ALL, map_size=map_size, was_verified=True)
    to_and_fro = Transition.NEXT.code + Transition.PREVIOUS.code
    try:
        before = store.cursor
        for begin in range(0, steps, _BATCH_STEPS):
            count = min(_BATCH_STEPS, steps - begin)
            after = Cursor(before.revision + count, before.position)
            batch = Batch(before, to_and_fro * (count // 2), after, time.time_ns())
            store.commit(batch, store.prepare(batch))
            before = after
    except (Refusal, StoreError, OutcomeUnknown) as error:
        raise StoreError(f"--beyond: {steps} steps cannot be made: {error}") from error
    finally:
        store.close()


def _exchange(copy: Path, place: Path) -> Path | None:
    """
    Exchange the two directories, and keep the old store under a new name.

    @return: the path of the old store; C{None} if the old directory was empty.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    kept = place.with_name(f"{place.name}.before-{stamp}")
    # The next restore removes all directories that have the name of a copy.  So the copy is
    # renamed before the exchange, and the old store never has such a name.
    copy.rename(kept)
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(kept), os.fsencode(place))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        kept.rename(copy)
        raise OSError(number, os.strerror(number))
    sync_directory(place.parent)
    if any(kept.iterdir()):
        return kept
    kept.rmdir()
    return None
