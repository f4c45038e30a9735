"""
Copy one state of a store, and give up before that costs a service too much.

LMDB does not use a page again that a reader may see, so the file of a busy service grows
with each commit while it is copied, and never shrinks.  A copy that takes too long is
stopped and started again with a later state: a backup can wait, clients cannot.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import lmdb

from pexservice.stores.interface import StoreUnusable
from pexservice.stores.lmdb.child import Progress
from pexservice.stores.lmdb.databases import used_bytes

#: How long one state may be read.
MAX_SECONDS = 300.0

#: How much the file may grow meanwhile: as much as the busiest service takes in seconds.
MAX_GROWTH_BYTES = 64 << 20

#: How many times a copy is started.
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

    Other pages are written only where LMDB cannot tell them apart from those in use.

    @param env: of a store that another process may be writing to.
    @param progress: called in a thread with how much is written, in percent.
    @raise StoreUnusable: the copy was given up; the message says what to do.
    """
    for _ in range(MAX_ATTEMPTS):
        _truncate(target)
        ended, failure = threading.Event(), None
        # The thread ends before its descriptor is closed, and the number used again.
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
    raise StoreUnusable(
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
    Watch a copy, and stop it when it exceeds a limit.

    @param descriptor: where the copy is written to.
    @param ended: is set when the copy has ended.
    @return: the limit that the copy exceeded, in words, if it did.
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
    # Only an error stops LMDB's copying, so its next write goes to a read-only descriptor.
    read_only = os.open(os.devnull, os.O_RDONLY)
    os.dup2(read_only, descriptor)
    os.close(read_only)
    return exceeded_limit


def _truncate(target: int) -> None:
    os.ftruncate(target, 0)
    os.lseek(target, 0, os.SEEK_SET)


def _copy(env: lmdb.Environment, descriptor: int) -> None:
    try:
        # Only the pages in use, and without the writer's lock.
        env.copyfd(descriptor, compact=True)
    except lmdb.IncompatibleError:
        # There is a page that neither the trees nor the free list contain.  LMDB cannot
        # tell whether it is in use, so all pages are copied as they are.
        _truncate(descriptor)
        env.copyfd(descriptor)
