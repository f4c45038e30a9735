"""
Copy a store, also one that a service is using.

LMDB's readers and its writer do not wait for each other, even in two processes: what is
read is one committed state, and the service goes on.  While the copy is made, no page that
it might read is used again, so the file of a busy service grows by some pages for each
commit; hence the copy goes into the page cache, and from there to the disk afterwards.

The pages are read in a child process, C{python -m pexservice.stores.lmdb.backup STORE
FILE}: a missing page ends that process, as L{pexservice.stores.lmdb.child} says.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lmdb

from pexservice.stores.interface import StoreDamaged, StoreUnusable
from pexservice.stores.lmdb.child import Progress, answer, ask_child
from pexservice.stores.lmdb.databases import MAP_BASE
from pexservice.stores.lmdb.directory import DATA, LOCK, Directory, sync
from pexservice.stores.lmdb.snapshot import copy_snapshot
from pexservice.stores.lmdb.summary import Summary, existing, summary
from pexservice.stores.lmdb.verify import DATABASES, blame, verify_in_child
from pexservice.stores.lmdb.witness import make_witness, read_witness, refuse_older

_MODULE = "pexservice.stores.lmdb.backup"


def backup(
    source: str, target: str, show: Callable[[str, int], object] = lambda *_: None
) -> Summary:
    """
    Copy the store in C{source} to C{target}, where nothing is yet, whole or not at all.

    @param show: called with the part that is under way, and how much of it is done, in
        percent.
    @raise StoreUnusable: something is there, or the store or its copy is not whole.
    """
    directory = existing(source)
    # Before the store is read: a commit that is witnessed by then is in the copy.
    witness = read_witness(directory.path)
    place = Path(os.path.abspath(target))  # noqa: PTH100 a link there is something
    if os.path.lexists(place):
        raise StoreUnusable(f"{place} exists already; a backup goes where nothing is")
    try:
        with _beside(place) as made:
            ask_child(
                directory.path,
                _MODULE,
                str(directory.path),
                str(made / DATA),
                progress=partial(show, "copying"),
            )
            _verify(directory.path, made, partial(show, "verifying"))
            copied = summary(made).revision
            refuse_older(directory.path, copied, witness)
            make_witness(made, copied)
            sync(made)
            made.rename(place)
            sync(place.parent)
    except OSError as error:
        raise StoreUnusable(f"the backup {place}: {error.strerror}") from error
    return summary(place)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """
    Provide a directory next to C{place}, which is removed afterwards unless it was renamed.
    """
    made = place.parent / f".{place.name}.partial-{secrets.token_hex(8)}"
    try:
        # Inside the try, for a signal may come as soon as the directory is made.
        made.mkdir(mode=0o700)
        yield made
    finally:
        if made.exists():
            shutil.rmtree(made)


def _verify(source: Path, copy: Path, progress: Progress) -> None:
    try:
        verify_in_child(copy, progress)
    except StoreDamaged as error:
        raise StoreDamaged(
            f"the store {source} is damaged, and its copy was removed: {error}"
        ) from None


def copy_pages(source: Path, file: Path, progress: Progress = lambda _: None) -> None:
    """
    Write the pages in use of the store in C{source} to C{file}, durably.

    @raise StoreUnusable: the pages cannot be read, or not be written.
    """
    directory = Directory(str(source))
    # With LMDB's reader table, if there is one: it keeps writers from using
    # pages again that are being read.  Without one, no process has the store open; the
    # table is not made here, for it would belong to the user that makes backups.
    shared = (directory.path / LOCK).exists()
    if not shared:
        directory.own()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with lmdb.open(
                str(source),
                # The file may grow before it is read.
                map_size=MAP_BASE + 2 * (source / DATA).stat().st_size,
                max_dbs=len(DATABASES),
                readonly=True,
                lock=shared,
                create=False,
            ) as env:
                copy_snapshot(env, descriptor, progress=progress)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (lmdb.Error, OSError) as error:
        if isinstance(found := blame(source, error), StoreDamaged):
            raise found from error
        raise StoreUnusable(f"the store {source} cannot be copied: {error}") from error
    finally:
        directory.release()


if __name__ == "__main__":
    store, copy = map(Path, sys.argv[1:])
    sys.exit(answer(partial(copy_pages, store, copy)))
