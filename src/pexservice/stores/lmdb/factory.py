"""
The factory of stores on LMDB, which puts one together from the command line's options.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pexservice.stores.interface import (
    IStore,
    IStoreFactory,
    StoreExists,
    StoreOptions,
    Verification,
)


@implementer(IStoreFactory)
class LmdbFactory:
    """
    The factory of the stores of C{lmdb:DIRECTORY}.
    """

    shared = False

    def check(self, url: str) -> None:
        """
        Check that C{url} names a directory.
        """
        if not _path(url):
            raise ValueError("must be lmdb:DIRECTORY")

    def name(self, url: str) -> str:
        """
        Return the absolute path of the directory that C{url} names.
        """
        return str(Path(_path(url)).resolve())

    def owner(self, url: str) -> int | None:
        """
        Return the process that has the lock on the directory, if the kernel shows it.
        """
        from pexservice.stores.lmdb.directory import owner_of  # noqa: PLC0415 as below

        return owner_of(Path(_path(url)))

    def check_start(self, url: str, *, create: bool) -> None:
        """
        Check the directory and its lock.
        """
        from pexservice.stores.lmdb.directory import Directory  # noqa: PLC0415 as below

        Directory(_path(url), create=create).check_start()

    def create(self, url: str, options: StoreOptions) -> Deferred[None]:
        """
        Create a store by opening one where there is none.
        """
        from pexservice.stores.lmdb.directory import Directory  # noqa: PLC0415 as below

        async def create() -> None:
            directory = Directory(_path(url))
            if directory.path.exists() and directory.holds_a_store():
                raise StoreExists(f"there is a store in {directory.path} already")
            store = self.make(url, options)
            try:
                await store.open()
            finally:
                await store.close()
            directory.give_to_owner_of_parent()

        return Deferred.fromCoroutine(create())

    def make(self, url: str, options: StoreOptions) -> IStore:
        """
        Make the store that C{url} names, without opening anything.
        """
        self.check(url)
        # A supervisor checks URLs, and does without LMDB.
        from pexservice.stores.lmdb import verify  # noqa: PLC0415 only a worker opens one
        from pexservice.stores.lmdb.directory import Directory  # noqa: PLC0415 only a worker opens one
        from pexservice.stores.lmdb.executor import (  # noqa: PLC0415 only a worker opens one
            CommitExecutor,
            ExecutorPolicy,
        )
        from pexservice.stores.lmdb.migrate import migrate  # noqa: PLC0415 only a worker opens one
        from pexservice.stores.lmdb.store import LmdbStore  # noqa: PLC0415 only a worker opens one

        report, executor = (
            options.progress,
            CommitExecutor(options.reactor, ExecutorPolicy()),
        )

        def progress(percent: int) -> None:
            # The child is awaited in a thread.
            if report is not None:
                options.reactor.callFromThread(report, percent)

        def verify_beside(path: Path) -> Deferred[None]:
            return executor.wait(partial(verify.verify_in_child, path, progress))

        def rewrite_beside(directory: Directory) -> Deferred[None]:
            return executor.wait(partial(migrate, directory, progress))

        checks: dict[Verification, Callable[[Path], object] | None] = {
            Verification.IN_CHILD: verify_beside,
            Verification.INLINE: partial(verify.verify, progress=report),
            Verification.QUICK: None,
        }
        return LmdbStore(
            Directory(_path(url), create=options.create, claim=options.claim),
            executor,
            journal=options.journal,
            verify=checks[options.verification],
            waiting=options.standing_by,
            rewrite=rewrite_beside,
            follow=options.reactor,
        )


def _path(url: str) -> str:
    return url.removeprefix("lmdb:")


FACTORY = LmdbFactory()
