"""
The choice of a store by its URL.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from pexservice.stores.factory_interface import IStoreFactory, StoreOptions
from pexservice.stores.interface import IStore
from pexservice.stores.registry import FACTORIES, offline_store, store_factory
from pexservice.stores.shared_interface import ISharedStore
from tests.support.fakes import Turns

URLS = {"lmdb": "lmdb:somewhere", "etcd": "etcd:http://127.0.0.1:1"}


@pytest.mark.parametrize("scheme", FACTORIES)
def test_each_scheme_has_a_factory_with_the_registered_sharing(scheme: str) -> None:
    factory = store_factory(URLS[scheme])
    assert verifyObject(IStoreFactory, factory)
    reactor: Any = Turns()
    store = factory.make(StoreOptions(reactor=reactor, journal=1))
    assert IStore.providedBy(store)
    assert ISharedStore.providedBy(store) is factory.shared


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
        store_factory(url)


@pytest.mark.parametrize("name", ["lmdb:/srv/a", "/srv/a"])
def test_directory_of_a_store_is_named_with_or_without_the_scheme(name: str) -> None:
    assert offline_store(name).directory == "/srv/a"
    # It may have a colon, where a URL could not be meant.
    assert offline_store("/srv/a:b").directory == "/srv/a:b"


@pytest.mark.parametrize("name", ["etcd:http://x", "http://x"])
def test_store_without_a_directory_says_how_it_is_copied(name: str) -> None:
    with pytest.raises(ValueError, match="use etcdctl snapshot save"):
        offline_store(name)


@pytest.mark.parametrize(
    ("url", "engine", "others"),
    [
        ("lmdb:x", "lmdb", "treq pexservice.stores.etcd"),
        ("etcd:http://x", "treq", "lmdb pexservice.stores.lmdb"),
    ],
)
def test_naming_a_store_imports_no_module_of_the_others(
    url: str, engine: str, others: str
) -> None:
    """
    Checking a URL imports no engine.  Only HTTPS needs pyOpenSSL, which takes megabytes.
    """
    code = f"""
import importlib.util, sys, pexservice.process.pyopenssl_guard
from twisted.internet import reactor
from pexservice.stores.factory_interface import StoreOptions
from pexservice.stores.registry import store_factory
factory = store_factory({url!r})
assert not sys.modules.keys() & {{{engine!r}, *{others.split()}}}
factory.make(StoreOptions(reactor=reactor, journal=1))
assert {engine!r} in sys.modules and sys.modules["OpenSSL"] is None
assert not sys.modules.keys() & {others.split()}
# A standby has imported what opening the store needs.
envid = {engine!r} + "._envid"
assert envid in sys.modules or not importlib.util.find_spec(envid)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
