"""
The common part of the verbs that ask a store of many nodes, while no service is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.python.failure import Failure

from pexservice.cli.outcome import VerbFailed
from pexservice.process.exit_status import Status
from pexservice.settings.options import Settings
from pexservice.stores.interface import ISharedStore, IStoreReactor, StoreOptions
from pexservice.stores.registry import make_store

T = TypeVar("T")


def ask_store(settings: Settings, question: Callable[[ISharedStore], Deferred[T]]) -> T:
    """
    Return what C{question} fires with, asked of the store that C{settings} name.

    @raise VerbFailed: the store is no store of many nodes, or its URL is wrong.
    @raise StoreUnusable: the store says so.
    """
    try:
        store = make_store(settings.store, options_for(settings))
    except ValueError as error:
        raise VerbFailed(
            f"--store: {error}", "misconfigured", Status.MISCONFIGURED
        ) from error
    if not ISharedStore.providedBy(store):
        raise VerbFailed(
            f"--store {settings.store}: only a store on etcd, etcd:http://HOST:PORT, can be"
            " asked so",
            "misconfigured",
            Status.MISCONFIGURED,
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
    answers: list[T] = []
    failures: list[Failure] = []

    def run() -> None:
        asked: Deferred[Any] = call().addCallbacks(answers.append, failures.append)
        asked.addCallback(lambda _: core.stop())

    core.callWhenRunning(run)
    core.run()
    if failures:
        failures[0].raiseException()
    return answers[0]
