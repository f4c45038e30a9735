"""
Copy one state of a store, with a limit on the time and on the growth of the store's file.

LMDB does not reuse a page that a reader may see.  So while a store is copied, its file
grows with each commit of the service, and the file never shrinks.  If a copy exceeds a
limit, it is stopped and started again with the newest state.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import lmdb

from pexservice.stores.errors import StoreError
from pexservice.stores.lmdb.child import Progress
from pexservice.stores.lmdb.databases import used_bytes

#: How long one attempt to copy may take.
MAX_SECONDS = 300.0

#: How much the file may grow during an attempt.  Under full load, it grows so much in
#: seconds.
MAX_GROWTH_BYTES = 64 << 20

#: How many attempts are made.
MAX_ATTEMPTS = 3

#: How often the limits are checked.
COPY_CHECK_INTERVAL_SECONDS = 0.05


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
        # The watching thread uses this descriptor, so the thread ends before it is closed.
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
