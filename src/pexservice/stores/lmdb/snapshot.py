"""
Copy one state of a store, and let go of it before that costs a service too much.

LMDB uses no page again that a reader might see, so the file of a busy service grows with
each commit while it is copied, and never shrinks.  A copy that takes too long is given up
and begun anew with a later state: a backup can wait, callers cannot.
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

#: How long one state may be read.  Seconds.
MOST_SECONDS = 300.0

#: How much the file may grow meanwhile.  Bytes: what the busiest service takes in seconds.
MOST_GROWTH = 64 << 20

#: How many times a copy is begun.
ATTEMPTS = 3

#: The time between two looks at a copy.  Seconds.
INTERVAL = 0.05


def _watch(
    env: lmdb.Environment,
    descriptor: int,
    ended: threading.Event,
    monotonic: Callable[[], float],
    progress: Progress,
) -> str | None:
    """
    Look at a copy again and again, and end it when it has gone beyond its limits.

    @param descriptor: where the copy is written to.
    @param ended: is set when the copy has ended.
    @return: the limit that the copy went beyond, in words, if it did.
    """
    end, size, exceeded = monotonic() + MOST_SECONDS, used_bytes(env), None
    while exceeded is None:
        if monotonic() >= end:
            exceeded = f"it took more than {MOST_SECONDS:.0f} seconds"
        elif used_bytes(env) > size + MOST_GROWTH:
            exceeded = f"the store grew by more than {MOST_GROWTH >> 20} MiB"
        elif ended.wait(INTERVAL):
            return None
        else:
            progress(min(100 * os.fstat(descriptor).st_size // size, 100))
    # Only an error ends LMDB's copying, and to write to this descriptor is one.
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return exceeded


def copy_snapshot(
    env: lmdb.Environment,
    target: int,
    monotonic: Callable[[], float] = time.monotonic,
    progress: Progress = lambda _: None,
) -> None:
    """
    Write the pages in use to the file that is open as C{target}.

    Other pages are written only where LMDB cannot tell them apart from those in use.

    @param env: of a store that another process may be writing to.
    @param progress: called in a thread with how much is written, in percent.
    @raise StoreUnusable: the copy was given up; the message says what to do.
    """
    for _ in range(ATTEMPTS):
        _empty(target)
        ended, failed = threading.Event(), None
        # The watch is over before its descriptor is closed, and the number used again.
        with (
            os.fdopen(os.dup(target), "wb", buffering=0) as file,
            ThreadPoolExecutor(1, "snapshot") as thread,
        ):
            watch = thread.submit(_watch, env, file.fileno(), ended, monotonic, progress)
            try:
                _copy(env, file.fileno())
            except (lmdb.Error, OSError) as error:
                failed = error
            finally:
                ended.set()
        exceeded = watch.result()
        if failed is None:
            return
        if exceeded is None:
            raise failed
    raise StoreUnusable(
        f"the copy of {env.path()} was begun {ATTEMPTS} times and given up, since"
        f" {exceeded} meanwhile; copy to a faster disk, or when fewer steps are made"
    )


def _empty(target: int) -> None:
    os.ftruncate(target, 0)
    os.lseek(target, 0, os.SEEK_SET)


def _copy(env: lmdb.Environment, descriptor: int) -> None:
    try:
        # Only the pages in use, and without the writer's lock.
        env.copyfd(descriptor, compact=True)
    except lmdb.IncompatibleError:
        # Of a page that neither the data nor the free list knows, LMDB cannot tell
        # that it is not in use.  So all pages are copied as they are.
        _empty(descriptor)
        env.copyfd(descriptor)
