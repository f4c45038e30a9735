"""
Which store a URL names.

To add a store: a folder with a factory in it, and a line here.  A store's modules are
imported when a URL names it, so nobody pays for those of the others.
"""

from __future__ import annotations

from typing import cast

from twisted.python.reflect import namedAny

from pexservice.stores.interface import IStore, IStoreFactory, StoreOptions

#: By scheme: the URLs it has, and the name of its L{IStoreFactory}.
_STORES = {
    "lmdb": ("lmdb:DIRECTORY", "pexservice.stores.lmdb.factory.FACTORY"),
    "etcd": ("etcd:http://HOST:PORT", "pexservice.stores.etcd.factory.FACTORY"),
}


class UnknownScheme(ValueError):
    """
    There is no store with such URLs.
    """


def _factory(url: str) -> IStoreFactory:
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in _STORES:
        forms = " or ".join(form for form, _ in _STORES.values())
        raise UnknownScheme(f"must be {forms}")
    return cast(IStoreFactory, namedAny(_STORES[scheme][1]))


def check_url(url: str) -> None:
    """
    Check that C{url} can name a store, without touching it.

    @raise UnknownScheme: it is of no store.
    @raise ValueError: it is wrong otherwise.  The messages say why, without C{url}.
    """
    _factory(url).check(url)


def is_shared(url: str) -> bool:
    """
    Return whether others may move the cursor of the store that C{url} names.
    """
    return _factory(url).shared


def make_store(url: str, options: StoreOptions) -> IStore:
    """
    Make the store that C{url} names, which is not open yet.

    @raise ValueError: it names none.
    @raise StoreUnusable: a file that it names cannot be used.
    """
    return _factory(url).make(url, options)
