"""
Put a backup in the place of a store.

The copy is made and verified beside the store, and the two directories change places in
one step, so at every moment there is the old store or the new one under the name, and
never an empty place where a service would begin at 0.  What was there before is kept.

A store from a backup counts again revisions that callers have seen.  They are left behind
in the one way that is safe: by transitions, committed like every other transition.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.core.cursor import Transition
from pexservice.stores.interface import (
    Batch,
    NotTaken,
    StoreBusy,
    StoreDamaged,
    StoreUnusable,
)
from pexservice.stores.lmdb.backup import backup
from pexservice.stores.lmdb.databases import MAP_BASE, open_databases
from pexservice.stores.lmdb.directory import WITNESS, Directory, sync
from pexservice.stores.lmdb.migrate import format_of, migrate
from pexservice.stores.lmdb.room import Room
from pexservice.stores.lmdb.summary import Summary, existing, summary
from pexservice.stores.lmdb.transaction import Kept, read_extent, write_batch
from pexservice.stores.lmdb.witness import make_witness

#: RENAME_EXCHANGE, of linux/fs.h, and the present directory, of fcntl.h.
_EXCHANGE = 2
_HERE = -100

#: How many transitions are committed at a time, an even number, and how many at most.
_AT_ONCE = 1 << 20
MOST_STEPS = 100_000_000

#: Nothing is trimmed here.
_WHOLE = Kept(transitions=1 << 40, keys=1 << 40)


@frozen(kw_only=True)
class Restored:
    """
    The result of a restore.

    @ivar store: the store as it is now.
    @ivar steps: how many transitions were made to leave revisions behind.
    @ivar kept: where the store is that was there before, if there was one.
    """

    store: Summary
    steps: int
    kept: Path | None


def restore(
    source: str,
    target: str,
    beyond: int | None = None,
    show: Callable[[str, int], object] = lambda *_: None,
) -> Restored:
    """
    Put a copy of the backup in C{source} in the place of the store in C{target}.

    @param beyond: the highest revision that any caller has seen.
    @param show: as for L{backup}.
    @raise StoreBusy: a service uses the store in C{target}.
    @raise StoreUnusable: the backup is not whole, or cannot be put there, or the directory
        C{target} holds something that is no store.
    """
    existing(source)
    place = Directory(target)
    there = place.path.exists()
    if there and place.path.samefile(source):
        raise StoreUnusable(f"the backup {source} is the store itself")
    try:
        place.own()
    except StoreBusy as error:
        raise StoreBusy(f"{error}; stop the service first") from None
    prefix = f".{place.path.name}.restored-"
    beside = place.path.parent / f"{prefix}{secrets.token_hex(8)}"
    try:
        # A store that is damaged, or has lost its file, may be replaced.
        with suppress(StoreDamaged):
            place.holds_a_store()
        # No other restore to this place runs: this process owns the place.
        for left in place.path.parent.glob(f"{prefix}{'[0-9a-f]' * 16}"):
            shutil.rmtree(left)
        made = backup(source, str(beside), show)
        if format_of(beside) == 1:
            _rewrite(beside, show)
        steps = 0 if beyond is None else _leave_behind(beside, made, beyond)
        _give_to_owner(beside, place.path)
        kept = _exchange(beside, place.path)
        return Restored(store=summary(place.path), steps=steps, kept=kept)
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise StoreUnusable(
            f"the store {place.path} cannot be replaced: {error.strerror}"
            + ("; its parent directory has to be writable, as to root" if denied else "")
        ) from error
    finally:
        if beside.exists():
            shutil.rmtree(beside)
        place.release()
        if not there and place.path.exists() and not any(place.path.iterdir()):
            place.path.rmdir()


def _rewrite(path: Path, show: Callable[[str, int], object]) -> None:
    """
    Rewrite a copy of a backup that version 1.0.0 made, in the newest format.
    """
    directory = Directory(str(path))
    directory.own()
    try:
        migrate(directory, partial(show, "rewriting"))
    finally:
        directory.release()


def _leave_behind(path: Path, made: Summary, beyond: int) -> int:
    """
    Make steps to and fro until the revision is higher than C{beyond}.

    @return: how many steps.
    """
    steps = max(0, beyond + 1 - made.revision)
    # To and fro, so that the position stays.
    steps += steps % 2
    if steps > MOST_STEPS:
        raise StoreUnusable(
            f"--beyond {beyond}: that is {steps} steps from revision {made.revision},"
            f" and at most {MOST_STEPS} are made; is it the right backup?"
        )
    directory = Directory(str(path))
    directory.own()
    try:
        revision = _step_to_and_fro(directory, made, steps)
    except (NotTaken, lmdb.Error) as error:
        raise StoreUnusable(
            f"--beyond {beyond}: {steps} steps cannot be made: {error}"
        ) from error
    finally:
        directory.release()
    (path / WITNESS).unlink()
    make_witness(path, revision)
    sync(path)
    return steps


def _step_to_and_fro(directory: Directory, made: Summary, steps: int) -> int:
    """
    Commit C{steps} steps, an even number, to the store in C{directory}, which is owned.

    @return: the revision then.
    @raise NotTaken: the disk has no room for them.
    """
    opened = open_databases(directory.path, MAP_BASE + 2 * (made.size + steps))
    to_and_fro = Transition.NEXT.code + Transition.PREVIOUS.code
    with opened.env as env:
        room = Room(directory, env, growth=0, monotonic=time.monotonic)
        with env.begin() as txn:
            extent = read_extent(txn, opened, made.revision)
        for begin in range(0, steps, _AT_ONCE):
            count = min(_AT_ONCE, steps - begin)
            batch = Batch(
                first_revision=extent.revision + 1,
                start_position=made.position,
                transitions=to_and_fro * (count // 2),
                position=made.position,
                time_ns=time.time_ns(),
            )
            room.claim(room.needed(batch))
            with env.begin(write=True) as txn:
                extent = write_batch(txn, opened, batch, extent, _WHOLE)
    return extent.revision


def _give_to_owner(made: Path, place: Path) -> None:
    """
    Give what root has made to the user whose store is replaced.
    """
    owner = place.stat()
    if os.geteuid() == 0:
        for each in (made, *made.iterdir()):
            os.chown(each, owner.st_uid, owner.st_gid)


def _exchange(made: Path, place: Path) -> Path | None:
    """
    Exchange the two directories, and keep what was in the place before.

    @return: where that is, if there was anything.
    """
    # With microseconds, so that two restores in one second keep both stores.
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    kept = place.with_name(f"{place.name}.before-{stamp}")
    # Before the exchange, so that the old store is never under the name of a copy: the
    # next restore removes copies that a killed one has left.
    made.rename(kept)
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(kept), os.fsencode(place))
    if libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE):
        number = ctypes.get_errno()
        kept.rename(made)
        raise OSError(number, os.strerror(number))
    sync(place.parent)
    if any(kept.iterdir()):
        return kept
    kept.rmdir()
    return None
