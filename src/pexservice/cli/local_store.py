"""
The common part of the verbs that read a store on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

from pexservice.cli.outcome import VerbFailed
from pexservice.process.exit_status import Status
from pexservice.settings.config_file import read_config
from pexservice.settings.option import options_of
from pexservice.settings.options import Settings, Source, Supervision
from pexservice.stores.interface import StoreDamaged, StoreIncompatible, StoreUnusable
from pexservice.stores.lmdb.summary import Summary

#: The outcome in one word, as C{--json} shows it, where it is not C{failed}.
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


def configured_directory(path: str) -> str:
    """
    Return the directory of the store that the configuration file C{path} names.

    @raise VerbFailed: the file is wrong, or names no store on this machine's disk.
    """
    try:
        store = read_config(path, options_of(Source, Settings, Supervision)).get("store")
    except ValueError as error:
        raise VerbFailed(str(error), "misconfigured", Status.MISCONFIGURED) from error
    scheme, _, directory = str(store or "none").partition(":")
    if scheme != "lmdb":
        raise VerbFailed(
            f"the configuration file {path}: store = {store!r} is no directory on this"
            " machine; etcd's own tool copies what it keeps: etcdctl snapshot save",
            "misconfigured",
            Status.MISCONFIGURED,
        )
    return directory


def contents(of: Summary) -> str:
    """
    Return one line about the contents of a store.
    """
    known = f"revision {of.revision}, position {of.position}, {of.size} bytes"
    if of.witness is None:
        return f"{known}; it has no witness, so this may not be its newest state"
    return known
