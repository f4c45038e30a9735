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
    from twisted.internet import reactor  # noqa: PLC0415 imports install it

    core = IReactorCore(reactor)
    try:
        store = make_store(
            settings.store,
            StoreOptions(reactor=cast(IStoreReactor, reactor), journal=settings.journal),
        )
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
    answers: list[T] = []
    failures: list[Failure] = []

    async def ask() -> None:
        try:
            answers.append(await question(shared))
        finally:
            await shared.close()

    def run() -> None:
        asked: Deferred[Any] = Deferred.fromCoroutine(ask()).addErrback(failures.append)
        asked.addCallback(lambda _: core.stop())

    core.callWhenRunning(run)
    core.run()
    if failures:
        failures[0].raiseException()
    return answers[0]
