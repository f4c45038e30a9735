"""
The choice of a store by its URL.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from pexservice.stores.interface import (
    ISharedStore,
    IStore,
    IStoreFactory,
    StoreOptions,
)
from pexservice.stores.registry import _STORES, _factory, check_url, is_shared, make_store
from tests.support.fakes import Turns

URLS = {"lmdb": "lmdb:somewhere", "etcd": "etcd:http://127.0.0.1:1"}


@pytest.mark.parametrize("scheme", _STORES)
def test_each_scheme_has_a_factory_with_the_registered_sharing(scheme: str) -> None:
    factory = _factory(URLS[scheme])
    assert verifyObject(IStoreFactory, factory)
    reactor: Any = Turns()
    store = make_store(URLS[scheme], StoreOptions(reactor=reactor, journal=1))
    assert IStore.providedBy(store)
    assert ISharedStore.providedBy(store) is is_shared(URLS[scheme])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("somewhere", "must be lmdb:DIRECTORY or etcd:http://HOST:PORT"),
        ("lmdb", "must be lmdb:DIRECTORY or etcd:http://HOST:PORT"),
        ("redis:http://x", "must be lmdb:DIRECTORY or etcd:http://HOST:PORT"),
        ("lmdb:", "must be lmdb:DIRECTORY"),
        ("etcd:x", "x is no such address"),
    ],
)
def test_url_that_names_no_store_is_refused_with_a_reason(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_url(url)


@pytest.mark.parametrize(
    ("call", "absent"),
    [
        ("check_url('etcd:http://x')", "treq lmdb"),
        ("check_url('lmdb:x')", "treq lmdb pexservice.stores.etcd"),
        (
            "make_store('lmdb:x', StoreOptions(reactor=None, journal=1))",
            "treq pexservice.stores.etcd",
        ),
        (
            "make_store('etcd:http://x', StoreOptions(reactor=reactor, journal=1))",
            "lmdb pexservice.stores.lmdb",
        ),
    ],
)
def test_naming_a_store_imports_no_module_of_the_others(call: str, absent: str) -> None:
    """
    Checking a URL imports no engine.
    """
    code = (
        "import sys\n"
        "from twisted.internet import reactor\n"
        "from pexservice.stores.registry import StoreOptions, check_url, make_store\n"
        f"{call}\n"
        f"print(*({set(absent.split())} & sys.modules.keys()))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert ran.stdout == "\n"
