"""
Copy one state of a store into a new store, even while a service uses the store.

In LMDB, readers and the writer do not wait for each other, even in two processes.  So the
service continues during a copy, and the copy has one committed state.  The copy is flushed
once, at its end, and then verified.

During a copy, LMDB does not reuse the pages of the copied state.  So the file of the store
grows with each commit of the service, and the file never shrinks.  If a copy takes too long
or lets the file grow too much, it is stopped and started again with the newest state.

A child process copies the pages.  If a page is missing, only the child ends; see
L{pexservice.stores.lmdb.child}.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import lmdb

from pexservice.stores.errors import StoreDamaged, StoreError
from pexservice.stores.factory_interface import ShowProgress, StoreSummary
from pexservice.stores.lmdb.child import Progress, run_child
from pexservice.stores.lmdb.databases import as_store_error, open_for_reading, used_bytes
from pexservice.stores.lmdb.directory import DATA_FILE, Directory, directory_with_store
from pexservice.stores.lmdb.file_system import READER_TABLE_FILE
from pexservice.stores.lmdb.verify import verify_in_child
from pexservice.stores.lmdb.witness import check_not_older, read_witness, renew_witness

#: How long one attempt to copy may take.
MAX_SECONDS = 300.0

#: How much the file may grow during an attempt.  Under full load, it grows so much in
#: seconds.
MAX_GROWTH_BYTES = 64 << 20

MAX_ATTEMPTS = 3

COPY_CHECK_INTERVAL_SECONDS = 0.05


def copy_store(source: str, copy: Path, show: ShowProgress) -> StoreSummary:
    """
    Make the directory C{copy} with a verified copy of the store in C{source}, durably.

    If this fails, C{copy} may exist, and the caller removes it.

    @raise OSError: the copy cannot be written.
    @raise StoreError: the store or its copy is damaged, or the store cannot be read.
    """
    store = directory_with_store(source).real_path
    # The witness is read first, so a copy that is older than the witness has lost commits.
    witnessed = read_witness(store)
    copy.mkdir(mode=0o700)
    run_child(copy_pages, store, copy / DATA_FILE, progress=partial(show, "copying"))
    try:
        copied = verify_in_child(copy, partial(show, "verifying"))
    except StoreDamaged as error:
        raise StoreDamaged(
            f"the store {store} is damaged, and its copy was removed: {error}"
        ) from None
    check_not_older(store, copied.revision, witnessed)
    renew_witness(copy, copied.revision)
    return copied


def copy_pages(source: Path, file: Path, progress: Progress = lambda _: None) -> None:
    """
    Write the pages in use of the store in C{source} to C{file}, durably.

    @raise StoreError: the pages cannot be read or written.
    """
    directory = Directory(str(source))
    # An entry in LMDB's table of readers prevents the service from reusing the pages that
    # are read here.  If there is no table, no process has the store open, and the directory
    # is locked instead.  A new table would belong to the user who makes the backup, and the
    # service of another user could not open it.
    has_readers_table = (directory.real_path / READER_TABLE_FILE).exists()
    if not has_readers_table:
        directory.lock()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open_for_reading(source, in_use=has_readers_table) as env:
                copy_snapshot(env, descriptor, progress)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (lmdb.Error, OSError) as error:
        if isinstance(reason := as_store_error(source, error), StoreDamaged):
            raise reason from error
        raise StoreError(
            f"the store {source} cannot be copied to {file.parent.parent}: {error}"
        ) from error
    finally:
        directory.unlock()


def copy_snapshot(
    env: lmdb.Environment,
    target: int,
    progress: Progress,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """
    Write the pages in use to the file that is open as C{target}.

    If LMDB cannot tell which pages are in use, all pages are written.

    @param env: the environment of a store that another process may be writing to.
    @param progress: called in a thread with how much is written, in percent.
    @raise StoreError: every attempt exceeded a limit; the message says what to do.
    """
    for _ in range(MAX_ATTEMPTS):
        _truncate(target)
        ended, failure = threading.Event(), None
        # The watching thread uses the descriptor of C{file}, so C{file} is closed last.
        with (
            os.fdopen(os.dup(target), "wb", buffering=0) as file,
            ThreadPoolExecutor(1, "snapshot") as thread,
        ):
            watch = thread.submit(_watch, env, file.fileno(), ended, monotonic, progress)
            try:
                _copy(env, file.fileno())
            except (lmdb.Error, OSError) as error:
                failure = error
            finally:
                ended.set()
        exceeded_limit = watch.result()
        if failure is None:
            return
        if exceeded_limit is None:
            raise failure
    raise StoreError(
        f"the copy of {env.path()} was begun {MAX_ATTEMPTS} times and given up, since"
        f" {exceeded_limit} meanwhile; copy to a faster disk, or when fewer steps are made"
    )


def _watch(
    env: lmdb.Environment,
    descriptor: int,
    ended: threading.Event,
    monotonic: Callable[[], float],
    progress: Progress,
) -> str | None:
    """
    Wait until a copy has ended, and stop it if it exceeds a limit.

    @param descriptor: the file that the copy is written to.
    @param ended: set when the copy has ended.
    @return: the limit that the copy exceeded, in words; C{None} if it exceeded none.
    """
    deadline, size, exceeded_limit = monotonic() + MAX_SECONDS, used_bytes(env), None
    while exceeded_limit is None:
        if monotonic() >= deadline:
            exceeded_limit = f"it took more than {MAX_SECONDS:.0f} seconds"
        elif used_bytes(env) > size + MAX_GROWTH_BYTES:
            exceeded_limit = f"the store grew by more than {MAX_GROWTH_BYTES >> 20} MiB"
        elif ended.wait(COPY_CHECK_INTERVAL_SECONDS):
            return None
        else:
            progress(min(100 * os.fstat(descriptor).st_size // size, 100))
    # LMDB stops copying only after an error.  So its next write must fail, and the
    # descriptor is made read-only.
    read_only = os.open(os.devnull, os.O_RDONLY)
    os.dup2(read_only, descriptor)
    os.close(read_only)
    return exceeded_limit


def _truncate(target: int) -> None:
    os.ftruncate(target, 0)
    os.lseek(target, 0, os.SEEK_SET)


def _copy(env: lmdb.Environment, descriptor: int) -> None:
    try:
        # C{compact} copies only the pages in use, without locking out the writer.
        env.copyfd(descriptor, compact=True)
    except lmdb.IncompatibleError:
        # A page is neither in a tree nor in a list of free pages, so LMDB does not know
        # whether it is in use.  Copy all pages.
        _truncate(descriptor)
        env.copyfd(descriptor)
