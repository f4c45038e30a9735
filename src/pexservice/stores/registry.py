"""
The registry of stores, by the scheme of their URLs.

To add a store, add a folder with a factory, and a line here.  A factory is imported only
when a URL has its scheme, or when the message about a wrong URL lists the forms of all
URLs.  So no process imports the modules of a store that it does not use.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import cast

from twisted.python.reflect import namedAny

from pexservice.stores.factory_interface import IOfflineStore, IStoreFactory

#: The classes of the factories, by the scheme of their URLs.
FACTORIES = {
    "lmdb": "pexservice.stores.lmdb.factory.LmdbFactory",
    "etcd": "pexservice.stores.etcd.factory.EtcdFactory",
}


def store_factory(url: str) -> IStoreFactory:
    """
    Return the factory of the store that C{url} names, without opening the store.

    @raise ValueError: C{url} names no store.  The message says why without showing C{url},
        and suggests the URL that the operator probably meant.
    """
    scheme, colon, rest = url.partition(":")
    if colon and scheme in FACTORIES:
        return cast(IStoreFactory, namedAny(FACTORIES[scheme])(url))
    meant = _with_scheme(url)
    if meant is None and (similar := get_close_matches(scheme, FACTORIES, 1)) and colon:
        meant = f"{similar[0]}:{rest}"
    forms = " or ".join(namedAny(name).FORM for name in FACTORIES.values())
    raise ValueError(f"must be {forms}{f' (did you mean {meant}?)' if meant else ''}")


def offline_store(name: str) -> IOfflineStore:
    """
    Return the offline commands of a store.

    @param name: the URL of the store, or the directory of an LMDB store.

    @raise ValueError: the name is empty, or the store has no directory on this machine.
        The message says how to copy such a store.
    """
    if not name:
        # The name may come from a shell variable without a value.
        raise ValueError("the name of the directory is empty")
    is_url = name.partition(":")[0] in FACTORIES
    url = name if is_url else _with_scheme(name) or f"lmdb:{name}"
    return store_factory(url).offline()


def _with_scheme(text: str) -> str | None:
    """
    Return the URL that the operator probably meant by C{text}, which has no scheme.
    """
    for scheme, name in FACTORIES.items():
        if namedAny(name).WITHOUT_SCHEME.fullmatch(text):
            return f"{scheme}:{text}"
    return None
