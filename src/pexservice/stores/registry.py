"""
The registry of stores, by the scheme of their URLs.

To add a store, add a folder with a factory in it, and a line here.  A store's modules are
imported when a URL names it, so no process pays for those of the other stores.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.python.reflect import namedAny

from pexservice.stores.interface import IStore, IStoreFactory, StoreOptions

#: By scheme: the form of its URLs, and the class of its L{IStoreFactory}.
_STORES = {
    "lmdb": ("lmdb:DIRECTORY", "pexservice.stores.lmdb.factory.LmdbFactory"),
    "etcd": ("etcd:http://HOST:PORT", "pexservice.stores.etcd.factory.EtcdFactory"),
}


class UnknownScheme(ValueError):
    """
    The error for a URL whose scheme no store has.
    """


def _factory(url: str) -> IStoreFactory:
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in _STORES:
        forms = " or ".join(form for form, _ in _STORES.values())
        raise UnknownScheme(f"must be {forms}")
    return cast(IStoreFactory, namedAny(_STORES[scheme][1])())


def check_url(url: str) -> None:
    """
    Check that C{url} can name a store, without touching the store.

    @raise UnknownScheme: no store has its scheme.
    @raise ValueError: C{url} is wrong in another way.  The messages say why, without
        C{url}.
    """
    _factory(url).check(url)


def is_shared(url: str) -> bool:
    """
    Return whether other nodes may move the cursor of the store that C{url} names.
    """
    return _factory(url).shared


def make_store(url: str, options: StoreOptions) -> IStore:
    """
    Make the store that C{url} names, without opening it.

    @raise ValueError: C{url} names no store.
    @raise StoreUnusable: a file that C{url} names cannot be used.
    """
    return _factory(url).make(url, options)


def create_store(url: str, options: StoreOptions) -> Deferred[None]:
    """
    Create an empty store, durably; see L{IStoreFactory.create}.
    """
    return _factory(url).create(url, options)


def name_of(url: str) -> str:
    """
    Return the name in messages of the store that C{url} names.
    """
    return _factory(url).name(url)


def owner_of(url: str) -> str:
    """
    Return in words which process owns the store that C{url} names.
    """
    return _factory(url).owner(url)


def check_start(url: str, *, create: bool) -> None:
    """
    Check cheaply whether a process could open the store; see L{IStoreFactory.check_start}.
    """
    _factory(url).check_start(url, create=create)
