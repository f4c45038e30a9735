"""
A store on etcd, put together from what the command line says.
"""

from __future__ import annotations

from zope.interface import implementer

from pexservice.stores.etcd.address import parse
from pexservice.stores.interface import (
    IStore,
    IStoreFactory,
    StoreOptions,
    StoreUnusable,
)


@implementer(IStoreFactory)
class EtcdFactory:
    """
    Makes the stores of C{etcd:http://HOST:PORT[,http://HOST:PORT...]}.
    """

    shared = True

    def check(self, url: str) -> None:
        """
        Check the addresses and the parameters.
        """
        parse(url)

    def make(self, url: str, options: StoreOptions) -> IStore:
        """
        Make the store, to which nobody is connected yet.
        """
        # A supervisor checks URLs, and does without an HTTP client.
        from pexservice.stores.etcd.gateway import Gateway  # noqa: PLC0415 treq, for this store alone
        from pexservice.stores.etcd.opening import check_members  # noqa: PLC0415 treq, for this store alone
        from pexservice.stores.etcd.store import EtcdStore  # noqa: PLC0415 treq, for this store alone

        address = parse(url)
        if address.password_file is not None:
            try:
                address.password()
            except OSError as error:
                raise StoreUnusable(f"{address.password_file}: {error.strerror}") from error
        gateway = Gateway(address, options.reactor)
        return EtcdStore(
            gateway,
            address.prefix,
            name=str(address),
            journal=options.journal,
            stream=gateway.stream,
            prepare=lambda: check_members(gateway, address),
            close=gateway.close,
        )


FACTORY = EtcdFactory()
