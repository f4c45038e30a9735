"""
Would a worker start?  Asked before there is one, so that whoever starts the service
is told at once: C{python -m pexservice.cli.check}, with a worker's options.

It does what a worker does before it listens, and reads the whole store, in a process
of its own: reading a damaged store may be the end of the process that does it.
"""

from __future__ import annotations

import sys
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.cli.twistd import WorkerOptions
from pexservice.process.exit_status import CannotStart
from pexservice.settings.options import Settings
from pexservice.stores.lmdb.child import Progress, answer
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.executor import CommitExecutor, ExecutorPolicy
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.lmdb.verify import verify
from pexservice.web.access import BadTokens
from pexservice.worker.files import check_files


@implementer(IReactorFromThreads)
class _NoThreads:
    """
    Nothing here is handed to a thread.
    """

    def callFromThread(self, callable: object, *args: object, **kwargs: object) -> None:  # noqa: A002 the interface's name
        """
        See L{IReactorFromThreads.callFromThread}.
        """
        raise AssertionError("there is no thread")


def _open_directory(settings: Settings, progress: Progress) -> None:
    store = LmdbStore(
        Directory(settings.store),
        CommitExecutor(_NoThreads(), ExecutorPolicy()),
        journal=settings.journal,
        verify=partial(verify, progress=progress),
    )
    failures: list[Failure] = []
    store.open().addErrback(failures.append)
    if failures:
        failures[0].raiseException()
    store.close()


def _open_cluster(url: str, journal: int) -> None:
    # Here answers have to be waited for.
    from twisted.internet import reactor  # noqa: PLC0415

    from pexservice.stores.etcd.making import etcd_store  # noqa: PLC0415

    store = etcd_store(url, IReactorTime(reactor), journal=journal)

    async def look() -> None:
        try:
            await store.open()
        finally:
            await store.close()

    failures: list[Failure] = []
    looked = Deferred.fromCoroutine(look()).addErrback(failures.append)
    looked.addCallback(lambda _: IReactorCore(reactor).callWhenRunning(_stop, reactor))
    IReactorCore(reactor).run()
    if failures:
        failures[0].raiseException()


def _stop(reactor: IReactorCore) -> None:
    reactor.stop()


def look(arguments: list[str], progress: Progress) -> None:
    """
    See whether a worker with these arguments would start.

    @param progress: called with how much of the store was read, in percent.
    @raise StoreUnusable: not on this store.
    @raise CannotStart: nor with these files, or L{BadTokens}.
    """
    options = WorkerOptions()
    options.parseOptions(arguments)
    settings = options.settings()
    check_files(settings)
    if settings.etcd is None:
        _open_directory(settings, progress)
    else:
        _open_cluster(settings.etcd, settings.journal)


if __name__ == "__main__":
    sys.exit(answer(partial(look, sys.argv[1:]), CannotStart, BadTokens))
