"""
The factory of stores on LMDB, which puts one together from the command line's options.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from zope.interface import implementer

from pexservice.stores.interface import (
    IStore,
    IStoreFactory,
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
        from pexservice.stores.lmdb.store import LmdbStore  # noqa: PLC0415 only a worker opens one

        progress = options.progress
        checks: dict[Verification, Callable[[Path], None] | None] = {
            Verification.IN_CHILD: partial(verify.verify_in_child, progress=progress),
            Verification.INLINE: partial(verify.verify, progress=progress),
            Verification.QUICK: None,
        }
        return LmdbStore(
            Directory(_path(url)),
            CommitExecutor(options.reactor, ExecutorPolicy()),
            journal=options.journal,
            verify=checks[options.verification],
            waiting=options.standing_by,
        )


def _path(url: str) -> str:
    return url.removeprefix("lmdb:")


FACTORY = LmdbFactory()
