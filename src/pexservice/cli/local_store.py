"""
What the verbs that read a store on this machine have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

from pexservice.cli.outcome import VerbFailed
from pexservice.stores.interface import StoreDamaged, StoreIncompatible, StoreUnusable
from pexservice.stores.lmdb.summary import Summary

#: How it went, in one word, for those who ask for an object.
_OUTCOMES: dict[type[StoreUnusable], str] = {
    StoreDamaged: "damaged",
    StoreIncompatible: "incompatible",
}


@contextmanager
def failing_as_a_verb() -> Iterator[None]:
    """
    Turn what is wrong with a store into L{VerbFailed}.
    """
    try:
        yield
    except StoreUnusable as error:
        outcome = _OUTCOMES.get(type(error), "failed")
        raise VerbFailed(str(error), outcome, error.exit_status) from error


def contents(of: Summary) -> str:
    """
    Say what a store has in it.
    """
    known = f"revision {of.revision}, position {of.position}, {of.size} bytes"
    if of.witness is None:
        return f"{known}; it has no witness, so this may not be its newest state"
    return known
