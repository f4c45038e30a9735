"""
What the verbs that work on a store share: its settings, its errors, and a reactor.
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
from twisted.python.usage import Options, UsageError

from pexservice.cli.output import VerbFailed
from pexservice.process.exit_status import CannotStart, Status
from pexservice.settings.config_file import read_config
from pexservice.settings.option import options_of
from pexservice.settings.options import Settings, Source, Supervision
from pexservice.stores.interface import (
    ISharedStore,
    IStoreReactor,
    StoreIncompatible,
    StoreOptions,
    StoreUnusable,
)
from pexservice.stores.lmdb.verify import Summary
from pexservice.stores.registry import make_store

Answer = TypeVar("Answer")

_OUTCOMES = {Status.MISCONFIGURED: "misconfigured", Status.DAMAGED: "damaged"}


@contextmanager
def store_errors() -> Iterator[None]:
    """
    Turn an error of a store, or of another part of the service, into L{VerbFailed}.
    """
    try:
        yield
    except StoreIncompatible as error:
        raise VerbFailed(str(error), "incompatible") from error
    except (StoreUnusable, CannotStart) as error:
        outcome = _OUTCOMES.get(error.exit_status, "failed")
        raise VerbFailed(str(error), outcome) from error


def settings_of(words: list[str]) -> Settings:
    """
    Return the settings of a service with the options C{words}.

    @raise VerbFailed: an option is wrong.
    """
    from pexservice.cli.twistd import ServiceOptions  # noqa: PLC0415 not every verb needs it

    options = ServiceOptions()
    try:
        # ServiceOptions' own parseOptions ends the process where an option is wrong.
        Options.parseOptions(options, words)
    except UsageError as error:
        raise VerbFailed(options.explained(str(error)), "misconfigured") from error
    return options.settings()


def configured_directory(path: str) -> str:
    """
    Return the directory of the store that the configuration file C{path} names.

    @raise VerbFailed: the file is wrong, or its store is not on this machine's disk.
    """
    try:
        store = read_config(path, options_of(Source, Settings, Supervision)).get("store")
    except ValueError as error:
        raise VerbFailed(str(error), "misconfigured") from error
    scheme, _, directory = str(store or "none").partition(":")
    if scheme != "lmdb":
        raise VerbFailed(
            f"the configuration file {path}: store = {store!r} is not a directory on this"
            " machine; to copy a store in etcd, use etcdctl snapshot save",
            "misconfigured",
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


def ask_shared_store(
    settings: Settings, question: Callable[[ISharedStore], Deferred[Answer]]
) -> Answer:
    """
    Ask the store on etcd that C{settings} name, and return the result of C{question}.

    @raise VerbFailed: the store is not on etcd, or its URL is wrong.
    @raise StoreUnusable: the store cannot be used.
    """
    try:
        store = make_store(settings.store, options_for(settings))
    except ValueError as error:
        raise VerbFailed(f"--store: {error}", "misconfigured") from error
    if not ISharedStore.providedBy(store):
        raise VerbFailed(
            f"--store {settings.store}: must be a store on etcd, etcd:http://HOST:PORT",
            "misconfigured",
        )
    shared = ISharedStore(store)

    async def ask() -> Answer:
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


def wait_for(call: Callable[[], Deferred[Answer]]) -> Answer:
    """
    Run the reactor until the C{Deferred} of C{call} fires, and return its result.
    """
    from twisted.internet import reactor  # noqa: PLC0415 imports install it

    core = IReactorCore(reactor)
    results: list[Any] = []

    def run() -> None:
        call().addBoth(results.append).addBoth(lambda _: core.stop())

    core.callWhenRunning(run)
    core.run()
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return cast(Answer, results[0])
