"""
A store whose calls block until they have finished.

The contract tests of all stores call each method and use its result at once.  With this
wrapper they also run against etcd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import blockingCallFromThread
from zope.interface import implementer

from pexservice.client import blocking
from pexservice.core.cursor import Cursor
from pexservice.stores.errors import Refusal
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.remembered_keys import KeyUse
from pexservice.stores.shared_interface import ISharedStore

T = TypeVar("T")


def running_reactor() -> Any:
    """
    Return the reactor, which runs in the thread that C{BlockingCursor} uses too.
    """
    return blocking.running_reactor()


@implementer(ISharedStore)
class Blocking:
    """
    A wrapper of L{EtcdStore} that makes each call in the reactor's thread and waits for it.
    """

    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        self.max_batch_keys = store.max_batch_keys
        self.went_back_count = store.went_back_count
        self.certificate_expires = store.certificate_expires
        self.turn_count, self.turn_wait_seconds = store.turn_count, store.turn_wait_seconds

    def _wait(self, call: Callable[..., Deferred[T]], *args: Any) -> Deferred[T]:
        done: Deferred[T] = execute(blockingCallFromThread, running_reactor(), call, *args)
        return done

    def open(self) -> Deferred[Cursor]:
        return self._wait(self._store.open)

    def turn(self) -> Deferred[Cursor]:
        return self._wait(self._store.turn)

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Wait until C{batch} is durable and the store has removed old rows.
        """

        def commit() -> Deferred[None]:
            return self._store.commit(batch).addCallback(
                lambda _: self._store._removing_keys
            )

        return self._wait(commit)

    def watch(
        self,
        cursor_moved: Callable[[Cursor], None],
        cursor_went_back: Callable[[Cursor], None],
    ) -> None:
        self._store.watch(cursor_moved, cursor_went_back)

    def probe(self) -> Deferred[Refusal | None]:
        return self._wait(self._store.probe)

    def read(self) -> Deferred[Cursor]:
        return self._wait(self._store.read)

    def advance(self, revision: int) -> Deferred[Cursor]:
        return self._wait(self._store.advance, revision)

    def recall(self, key: bytes) -> Deferred[KeyUse | None]:
        return self._wait(self._store.recall, key)

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        return self._wait(self._store.history, before, limit)

    def close(self) -> Deferred[None]:
        return self._wait(self._store.close)
