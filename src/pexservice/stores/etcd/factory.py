"""
The factory of stores on etcd.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pexservice.stores.etcd.address import parse
from pexservice.stores.factory_interface import IOfflineStore, IStoreFactory, StoreOptions

if TYPE_CHECKING:
    from pexservice.stores.etcd.store import EtcdStore

T = TypeVar("T")


@implementer(IStoreFactory)
class EtcdFactory:
    """
    The factory of the store of C{etcd:http://HOST:PORT[,http://HOST:PORT...]}.
    """

    FORM = "etcd:http://HOST:PORT"
    WITHOUT_SCHEME = re.compile("https?://.*")

    shared = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._address = parse(url)
        # The name contains no password.
        self.name = str(self._address)

    def offline(self) -> IOfflineStore:
        """
        Refuse, because the store is on other machines.
        """
        raise ValueError(
            "this is a store in etcd; this command requires the directory of a store on"
            " disk. To copy a store in etcd, use etcdctl snapshot save"
        )

    def absolute_url(self, directory: Path) -> str:
        """
        Return the URL as it is: the paths of its parameters must be absolute.
        """
        return self._url

    def lock_holder(self) -> str:
        """
        Name no process: no process locks a store on etcd.
        """
        return "another process"

    def check_openable(self, *, create: bool) -> None:
        """
        Check nothing: etcd answers only while a reactor runs.
        """

    def inspect(self, options: StoreOptions) -> Deferred[list[str]]:
        return self._with_store(options, lambda store: store.inspect())

    def create(self, options: StoreOptions) -> Deferred[None]:
        return self._with_store(options, lambda store: store.create())

    def _with_store(
        self, options: StoreOptions, use: Callable[[EtcdStore], Deferred[T]]
    ) -> Deferred[T]:
        store = self.make(options)
        return use(store).addBoth(
            lambda result: store.close().addCallback(lambda _: result)
        )

    def make(self, options: StoreOptions) -> EtcdStore:
        # The imports are here because a supervisor, which makes a factory, must not import
        # an HTTP client.
        from pexservice.stores.etcd.http_gateway import HttpGateway  # noqa: PLC0415 treq, for this store alone
        from pexservice.stores.etcd.store import EtcdStore  # noqa: PLC0415 treq, for this store alone

        address = self._address
        if address.password_file is not None:
            # If the file cannot be read, the start fails now, and not at the first call.
            address.password()
        return EtcdStore(
            HttpGateway(address, options.reactor),
            address.prefix,
            name=self.name,
            journal=options.journal,
            create=options.create,
            claim=options.claim,
        )
