"""
Functions for the verbs that work on a store: its options and its errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

from pexservice.cli.output import VerbFailed
from pexservice.cli.twistd import service_options
from pexservice.process.exit_status import CannotStart, Status
from pexservice.process.timing import the_reactor
from pexservice.settings.options import Settings
from pexservice.stores.errors import StoreError, StoreIncompatible
from pexservice.stores.factory_interface import IOfflineStore, StoreOptions, StoreSummary
from pexservice.stores.registry import store_factory

_OUTCOMES = {Status.MISCONFIGURED: "misconfigured", Status.DAMAGED: "damaged"}


@contextmanager
def store_errors() -> Iterator[None]:
    """
    Raise L{VerbFailed} for an error of a store, or of another part of the service.
    """
    try:
        yield
    except StoreIncompatible as error:
        raise VerbFailed(str(error), "incompatible") from error
    except (StoreError, CannotStart) as error:
        outcome = _OUTCOMES.get(error.exit_status, "failed")
        raise VerbFailed(str(error), outcome) from error


def configured_store(path: str) -> IOfflineStore:
    """
    Return the store that the configuration file C{path} names.

    @raise VerbFailed: the file is wrong, or its store is not on this machine's disk.
    """
    store = service_options(["--config", path]).given.get("store")
    try:
        return store_factory(store or "").offline()
    except ValueError as error:
        reason = f"the configuration file {path}: store = {store!r}: {error}"
        raise VerbFailed(reason, "misconfigured") from error


def contents(summary: StoreSummary) -> str:
    """
    Return one line about the contents of a store.
    """
    line = f"revision {summary.revision}, position {summary.position}, {summary.size} bytes"
    if summary.witness is None:
        line += "; it has no witness, so this may not be its newest state"
    return line


def options_for(settings: Settings) -> StoreOptions:
    """
    Return the options of a store that this process opens only for a moment.
    """
    return StoreOptions(
        reactor=the_reactor(),
        journal=settings.journal,
        create=not settings.no_create,
    )
