"""
The factory of stores on etcd, which puts one together from the command line's options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pexservice.stores.etcd.address import parse
from pexservice.stores.interface import (
    IStoreFactory,
    StoreMisconfigured,
    StoreOptions,
)

if TYPE_CHECKING:
    from pexservice.stores.etcd.store import EtcdStore


@implementer(IStoreFactory)
class EtcdFactory:
    """
    The factory of the stores of C{etcd:http://HOST:PORT[,http://HOST:PORT...]}.
    """

    shared = True

    def check(self, url: str) -> None:
        """
        Check the addresses and the parameters in C{url}.
        """
        parse(url)

    def name(self, url: str) -> str:
        """
        Return the addresses, without a password.
        """
        return str(parse(url))

    def owner(self, url: str) -> str:
        """
        Name no process: none owns the store alone.
        """
        return "another process"

    def check_start(self, url: str, *, create: bool) -> None:
        """
        Check nothing: etcd answers only while a reactor runs.
        """

    def create(self, url: str, options: StoreOptions) -> Deferred[None]:
        """
        Create a cursor in etcd.
        """
        store = self.make(url, options)

        async def create() -> None:
            try:
                await store.create()
            finally:
                await store.close()

        return Deferred.fromCoroutine(create())

    def make(self, url: str, options: StoreOptions) -> EtcdStore:
        """
        Make the store that C{url} names, without connecting to etcd.
        """
        # A supervisor checks URLs, and does without an HTTP client.
        from pexservice.stores.etcd.gateway import Gateway  # noqa: PLC0415 treq, for this store alone
        from pexservice.stores.etcd.store import EtcdStore  # noqa: PLC0415 treq, for this store alone

        address = parse(url)
        try:
            if address.password_file is not None:
                address.password()
        except OSError as error:
            raise StoreMisconfigured(
                f"{address.password_file}: {error.strerror}"
            ) from error
        return EtcdStore(
            Gateway(address, options.reactor),
            address.prefix,
            name=str(address),
            journal=options.journal,
            create=options.create,
            claim=options.claim,
        )
