"""
The factory of stores on LMDB.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pexservice.stores.interface import (
    IStore,
    IStoreFactory,
    StoreExists,
    StoreOptions,
)
from pexservice.stores.lmdb.directory import Directory, give_to_owner_of, owner_of


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

    def owner(self, url: str) -> str:
        """
        Return the process that has the lock on the directory, if the kernel shows it.
        """
        return owner_of(Path(_path(url)))

    def check_start(self, url: str, *, create: bool) -> None:
        """
        Check the directory and its lock.
        """
        Directory(_path(url), create=create).check_start()

    def create(self, url: str, options: StoreOptions) -> Deferred[None]:
        """
        Create a store by opening one where there is none.
        """

        async def create() -> None:
            path = Directory(_path(url)).path
            if path.exists() and Directory(_path(url)).holds_store():
                raise StoreExists(f"there is a store in {path} already")
            store = self.make(url, options)
            try:
                await store.open()
            finally:
                await store.close()
            give_to_owner_of(path.parent, path)

        return Deferred.fromCoroutine(create())

    def make(self, url: str, options: StoreOptions) -> IStore:
        """
        Make the store that C{url} names, without opening anything.
        """
        self.check(url)
        # A supervisor checks URLs, and does without LMDB.
        from pexservice.stores.lmdb.store import store_in  # noqa: PLC0415 only a worker opens one

        return store_in(_path(url), options)


def _path(url: str) -> str:
    return url.removeprefix("lmdb:")
