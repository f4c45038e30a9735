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


class _Watch(threading.Thread):
    """
    A thread that ends a copy under way when that has gone beyond its limits.

    @ivar exceeded: the limit that the copy went beyond, in words.
    """

    def __init__(
        self,
        env: lmdb.Environment,
        descriptor: int,
        monotonic: Callable[[], float],
        progress: Progress,
    ) -> None:
        super().__init__(name="snapshot", daemon=True)
        self._env = env
        self._descriptor = descriptor
        self._monotonic = monotonic
        self._end = monotonic() + MOST_SECONDS
        self._size = used_bytes(env)
        self._most = self._size + MOST_GROWTH
        self._progress = progress
        self._done = threading.Event()
        self.exceeded: str | None = None

    def run(self) -> None:
        """
        Look at the copy again and again, until it has ended or gone beyond a limit.
        """
        while not self._exceeds():
            if self._done.wait(INTERVAL):
                return
            written = os.fstat(self._descriptor).st_size
            self._progress(min(100 * written // self._size, 100))
        # Only an error ends LMDB's copying, and to write to this descriptor is one.
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)

    def _exceeds(self) -> bool:
        if self._monotonic() >= self._end:
            self.exceeded = f"it took more than {MOST_SECONDS:.0f} seconds"
        elif used_bytes(self._env) > self._most:
            self.exceeded = f"the store grew by more than {MOST_GROWTH >> 20} MiB"
        return self.exceeded is not None

    def stop(self) -> None:
        """
        End the thread, when the copy has ended.
        """
        self._done.set()
        self.join()


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
        descriptor = os.dup(target)
        watch = _Watch(env, descriptor, monotonic, progress)
        watch.start()
        try:
            _copy(env, descriptor)
        except (lmdb.Error, OSError):
            watch.stop()
            if watch.exceeded is None:
                raise
        else:
            watch.stop()
            return
        finally:
            os.close(descriptor)
    raise StoreUnusable(
        f"the copy of {env.path()} was begun {ATTEMPTS} times and given up, since"
        f" {watch.exceeded} meanwhile; copy to a faster disk, or when fewer steps are made"
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
