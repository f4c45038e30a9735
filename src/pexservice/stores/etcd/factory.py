"""
The factory of stores on etcd, which puts one together from the command line's options.
"""

from __future__ import annotations

from zope.interface import implementer

from pexservice.stores.etcd.address import parse
from pexservice.stores.interface import (
    IStore,
    IStoreFactory,
    StoreMisconfigured,
    StoreOptions,
)


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

    def owner(self, url: str) -> int | None:
        """
        Return C{None}: nobody owns the store alone.
        """
        return None

    def check_start(self, url: str, *, create: bool) -> None:
        """
        Check nothing: etcd answers only while a reactor runs.
        """

    def make(self, url: str, options: StoreOptions) -> IStore:
        """
        Make the store that C{url} names, without connecting to etcd.
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
                raise StoreMisconfigured(
                    f"{address.password_file}: {error.strerror}"
                ) from error
        gateway = Gateway(address, options.reactor)
        return EtcdStore(
            gateway,
            address.prefix,
            name=str(address),
            journal=options.journal,
            create=options.create,
            claim=options.claim,
            certificate_expires=gateway.certificate_expires,
            survey=lambda: check_members(gateway, address),
        )


FACTORY = EtcdFactory()
