"""
The stores of the verbs: how a verb opens one, and how its errors become failures of a verb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.python.failure import Failure

from pexservice.cli.output import VerbFailed
from pexservice.process.exit_status import Status
from pexservice.settings.config_file import read_config
from pexservice.settings.option import options_of
from pexservice.settings.options import Settings, Source, Supervision
from pexservice.stores.interface import (
    ISharedStore,
    IStoreReactor,
    StoreDamaged,
    StoreIncompatible,
    StoreOptions,
    StoreUnusable,
)
from pexservice.stores.lmdb.summary import Summary
from pexservice.stores.registry import make_store

T = TypeVar("T")

#: The outcomes that C{--json} prints, of errors that are not simply C{failed}.
_OUTCOMES: dict[type[StoreUnusable], str] = {
    StoreDamaged: "damaged",
    StoreIncompatible: "incompatible",
}


@contextmanager
def failing_as_a_verb() -> Iterator[None]:
    """
    Turn an error of a store into L{VerbFailed}.
    """
    try:
        yield
    except StoreUnusable as error:
        outcome = _OUTCOMES.get(type(error), "failed")
        raise VerbFailed(str(error), outcome, error.exit_status) from error


def _misconfigured(message: str) -> VerbFailed:
    return VerbFailed(message, "misconfigured", Status.MISCONFIGURED)


def configured_directory(path: str) -> str:
    """
    Return the directory of the store that the configuration file C{path} names.

    @raise VerbFailed: the file is wrong, or its store is not on this machine's disk.
    """
    try:
        store = read_config(path, options_of(Source, Settings, Supervision)).get("store")
    except ValueError as error:
        raise _misconfigured(str(error)) from error
    scheme, _, directory = str(store or "none").partition(":")
    if scheme != "lmdb":
        raise _misconfigured(
            f"the configuration file {path}: store = {store!r} is not a directory on this"
            " machine; to copy a store in etcd, use etcdctl snapshot save"
        )
    return directory


def contents(summary: Summary) -> str:
    """
    Return one line about the contents of a store.
    """
    line = f"revision {summary.revision}, position {summary.position}, {summary.size} bytes"
    if summary.witness is None:
        line += "; it has no witness, so this may not be its newest state"
    return line


def ask_store(settings: Settings, question: Callable[[ISharedStore], Deferred[T]]) -> T:
    """
    Ask the store on etcd that C{settings} name, and return the result of C{question}.

    @raise VerbFailed: the store is not on etcd, or its URL is wrong.
    @raise StoreUnusable: the store cannot be used.
    """
    try:
        store = make_store(settings.store, options_for(settings))
    except ValueError as error:
        raise _misconfigured(f"--store: {error}") from error
    if not ISharedStore.providedBy(store):
        raise _misconfigured(
            f"--store {settings.store}: must be a store on etcd, etcd:http://HOST:PORT"
        )
    shared = ISharedStore(store)

    async def ask() -> T:
        try:
            return await question(shared)
        finally:
            await shared.close()

    return wait_for(lambda: Deferred.fromCoroutine(ask()))


def options_for(settings: Settings) -> StoreOptions:
    """
    Return the options of a store that this process opens for a moment.
    """
    from twisted.internet import reactor  # noqa: PLC0415 imports install it

    return StoreOptions(reactor=cast(IStoreReactor, reactor), journal=settings.journal)


def wait_for(call: Callable[[], Deferred[T]]) -> T:
    """
    Run the reactor until the C{Deferred} of C{call} fires, and return its result.
    """
    from twisted.internet import reactor  # noqa: PLC0415 imports install it

    core = IReactorCore(reactor)
    results: list[T] = []
    failures: list[Failure] = []

    def run() -> None:
        called: Deferred[Any] = call().addCallbacks(results.append, failures.append)
        called.addCallback(lambda _: core.stop())

    core.callWhenRunning(run)
    core.run()
    if failures:
        failures[0].raiseException()
    return results[0]
