"""
The factory of stores on LMDB.
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from pexservice.stores.errors import StoreError
from pexservice.stores.factory_interface import IOfflineStore, IStoreFactory, StoreOptions
from pexservice.stores.interface import IStore
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.file_system import chown_like, describe_lock_holder


@implementer(IStoreFactory)
class LmdbFactory:
    FORM = "lmdb:DIRECTORY"
    WITHOUT_SCHEME = re.compile("[^:]+")

    shared = False

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("lmdb:")
        if not self._path:
            raise ValueError(f"must be {self.FORM}")
        self.name = str(Path(self._path).resolve())
        try:
            self.name.encode()
        except UnicodeEncodeError:
            raise ValueError("its absolute path must be UTF-8") from None

    def offline(self) -> IOfflineStore:
        from pexservice.stores.lmdb.offline import LmdbOfflineStore  # noqa: PLC0415 LMDB

        return LmdbOfflineStore(self._path)

    def absolute_url(self, directory: Path) -> str:
        return f"lmdb:{directory / self._path}"

    def lock_holder(self) -> str:
        return describe_lock_holder(Path(self._path))

    def check_openable(self, *, create: bool) -> None:
        Directory(self._path, create=create).check_openable()

    def inspect(self, options: StoreOptions) -> Deferred[list[str]]:
        directory = Directory(self._path, create=options.create)

        def inspect() -> list[str]:
            directory.check_openable()
            if not directory.find_store():
                return [f"a new store would be created in {directory.configured_path}"]
            self.offline().verify(lambda *_: None)
            return []

        return execute(inspect)

    def create(self, options: StoreOptions) -> Deferred[None]:
        """
        Create a store by opening one where there is none.
        """

        async def create() -> None:
            directory = Directory(self._path)
            if directory.find_store():
                raise StoreError(f"there is a store in {directory.configured_path} already")
            store = self.make(options)
            try:
                await store.open()
            finally:
                await store.close()
            chown_like(directory.real_path.parent, directory.real_path)

        return Deferred.fromCoroutine(create())

    def make(self, options: StoreOptions) -> IStore:
        # The imports are here because a supervisor, which makes a factory, must not import
        # LMDB.
        from pexservice.stores.lmdb.executor import CommitExecutor  # noqa: PLC0415 only a worker opens a store
        from pexservice.stores.lmdb.store import LmdbStore  # noqa: PLC0415 only a worker opens a store

        # Newer versions of lmdb import this module when they open a store.  A standby must
        # be able to open the store while the package is being replaced.
        with suppress(ImportError):
            import_module("lmdb._envid")
        return LmdbStore(
            Directory(self._path, create=options.create, claim=options.claim),
            CommitExecutor(options.reactor),
            kept_transitions=options.journal,
            verification=options.verification,
            progress=options.progress,
        )
