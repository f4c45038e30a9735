"""
The common part of the verbs that read a store on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

from pexservice.cli.outcome import VerbFailed
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


def contents(of: Summary) -> str:
    """
    Return one line about the contents of a store.
    """
    known = f"revision {of.revision}, position {of.position}, {of.size} bytes"
    if of.witness is None:
        return f"{known}; it has no witness, so this may not be its newest state"
    return known
