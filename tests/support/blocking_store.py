"""
A store whose calls block until they have finished.

The contract tests of all stores call each method and use its result at once.  With this
wrapper they also run against etcd.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import blockingCallFromThread
from zope.interface import directlyProvides

from pexservice.client.blocking import running_reactor
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.interface import Batch
from pexservice.stores.shared_interface import ISharedStore


class Blocking:
    """
    A wrapper of L{EtcdStore} that makes each call in the reactor's thread and waits for it.
    """

    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        directlyProvides(self, ISharedStore)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        return partial(self._wait, attribute) if callable(attribute) else attribute

    def _wait(self, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = execute(
            blockingCallFromThread, running_reactor(), call, *args
        )
        return done

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Wait until C{batch} is durable and the store has removed old rows.
        """

        def commit() -> Deferred[None]:
            return self._store.commit(batch).addCallback(
                lambda _: self._store._removing_keys
            )

        return self._wait(commit)
