"""
A store that waits for its answers.

With it the tests of the promises of every store can use a store that speaks over a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import blockingCallFromThread
from zope.interface import implementer

from pexservice.client import blocking
from pexservice.stores.errors import Refusal
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.interface import Batch, HistoryEntry, ISharedStore
from pexservice.stores.remembered_keys import KeyUse

T = TypeVar("T")


def running_reactor() -> Any:
    """
    Return the reactor, which runs in the one thread that the client has for it too.
    """
    return blocking.running_reactor()


@implementer(ISharedStore)
class Blocking:
    """
    A store whose calls come back when they are done, and when what follows from them is.
    """

    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        self.max_batch_keys = store.max_batch_keys
        self.went_back_count = store.went_back_count
        self.certificate_expires = store.certificate_expires
        self.turns, self.turn_seconds = store.turns, store.turn_seconds

    def _wait(self, call: Callable[..., Deferred[T]], *args: Any) -> Deferred[T]:
        done: Deferred[T] = execute(blockingCallFromThread, running_reactor(), call, *args)
        return done

    def open(self) -> Deferred[tuple[int, int]]:
        """
        Open the store, and wait until it is open; see L{IStore}.
        """
        return self._wait(self._store.open)

    def turn(self) -> Deferred[tuple[int, int]]:
        """
        Wait for a turn.
        """
        return self._wait(self._store.turn)

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Commit C{batch}, and wait until it is durable and the store is trimmed.
        """

        def commit() -> Deferred[None]:
            return self._store.commit(batch).addCallback(lambda _: self._store._trimming)

        return self._wait(commit)

    def watch(
        self,
        cursor_moved: Callable[[int, int], None],
        cursor_went_back: Callable[[int, int], None],
    ) -> None:
        """
        Have C{cursor_moved} called with news; see L{ISharedStore}.
        """
        self._store.watch(cursor_moved, cursor_went_back)

    def probe(self) -> Deferred[Refusal | None]:
        """
        Find out whether a batch would be taken; see L{ISharedStore}.
        """
        return self._wait(self._store.probe)

    def read(self) -> Deferred[tuple[int, int]]:
        """
        Read the cursor, and wait for it; see L{ISharedStore}.
        """
        return self._wait(self._store.read)

    def advance(self, revision: int) -> Deferred[tuple[int, int]]:
        """
        Give the cursor a higher revision; see L{ISharedStore}.
        """
        return self._wait(self._store.advance, revision)

    def recall(self, key: bytes) -> Deferred[KeyUse | None]:
        """
        Wait for what the store remembers of C{key}; see L{IStore}.
        """
        return self._wait(self._store.recall, key)

    def history(self, before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Wait for rows of the history; see L{IStore}.
        """
        return self._wait(self._store.history, before, limit)

    def close(self) -> Deferred[None]:
        """
        Close the store, and wait until it is closed; see L{IStore}.
        """
        return self._wait(self._store.close)
