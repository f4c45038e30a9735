"""
The check whether a worker would start, made before there is a worker.

So the operator who starts the service is told at once.  The command is
C{python -m pexservice.cli.check}, with a worker's options.

The check does what a worker does before it listens, and reads the whole store, in a
process of its own: reading a damaged store may end the process that reads.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.python.failure import Failure

from pexservice.cli.twistd import WorkerOptions
from pexservice.process.parent import (
    ORPHANS_INTERVAL,
    ORPHANS_PATIENCE,
    end_with_parent,
)
from pexservice.settings.options import Settings
from pexservice.stores.interface import (
    IStoreReactor,
    StoreBusy,
    StoreOptions,
    Verification,
)
from pexservice.stores.lmdb.child import Progress, answer
from pexservice.stores.registry import make_store
from pexservice.worker.files import check_files

#: A file descriptor.
STANDARD_OUTPUT = 1


def _open(settings: Settings, progress: Progress) -> None:
    # Some stores open only while a reactor runs.
    from twisted.internet import reactor  # noqa: PLC0415 imports install it

    store = make_store(
        settings.store,
        StoreOptions(
            reactor=cast(IStoreReactor, reactor),
            journal=settings.journal,
            verification=Verification.INLINE,
            progress=progress,
        ),
    )

    async def open_and_close() -> None:
        try:
            await store.open()
        finally:
            await store.close()

    failures: list[Failure] = []
    closed = Deferred.fromCoroutine(open_and_close()).addErrback(failures.append)
    if not closed.called:
        closed.addCallback(lambda _: IReactorCore(reactor).stop())
        IReactorCore(reactor).run()
    if failures:
        failures[0].raiseException()


def look(arguments: list[str], progress: Progress) -> None:
    """
    Check whether a worker with these arguments would start.

    @param progress: called with how much of the store was read, in percent.
    @raise StoreUnusable: the worker would not start on this store.
    @raise CannotStart: the worker would not start with these files.
    """
    options = WorkerOptions()
    options.parseOptions(arguments)
    settings = options.settings()
    check_files(settings)
    # The workers of a supervisor that was killed may still own the store.
    end = time.monotonic() + ORPHANS_PATIENCE
    while True:
        try:
            _open(settings, progress)
        except StoreBusy:
            if time.monotonic() > end:
                raise
            time.sleep(ORPHANS_INTERVAL)
        else:
            return


if __name__ == "__main__":
    # Only the supervisor reads this output, so the check ends when its supervisor does.
    end_with_parent(STANDARD_OUTPUT)
    sys.exit(answer(partial(look, sys.argv[1:])))
