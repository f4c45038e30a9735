"""
The committer of a store that only this process writes to.

Reads show the durable state, so a crash cannot undo a state that a client has read.

A step is not applied in two cases:

  - The precondition of the step is not met.  The response shows the state that did not meet
    the precondition.
  - The key of the step was used before.  The response shows the state after the first use,
    or is an error if the first use was another transition.

In both cases, the response waits until this state is durable.

If the store refuses a batch, this batch and the open batch are not stored, and the
committer continues.  After any other error, the committer accepts no more steps, and the
process ends.  The next process opens the store, and reads from it which steps are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.group_commit import GroupCommit, PendingBatch
from pexservice.commit.interface import ICommitter, Outcome, Step, Waiter
from pexservice.core.cursor import State, state_at
from pexservice.stores.errors import OutcomeUnknown, Refusal, StoreDamaged, StoreError
from pexservice.stores.interface import HistoryEntry, IExclusiveStore
from pexservice.stores.remembered_keys import KeyUse, RememberedKeys

#: The minimum time between two log lines about refused steps.  While the disk is full,
#: thousands of steps a second are refused, and the log may be on the same disk.
REFUSAL_LOG_INTERVAL_SECONDS = 1.0

_DAMAGED, _FAILED = "the store is damaged", "the store failed during a commit"

# An alias for speed; see L{Outcome}.
_READ = Outcome.READ

# Computing a state at a high position takes milliseconds.  The cache saves this time when a
# client repeats the same step several times.
_cached_state_at = lru_cache(maxsize=8)(state_at)


@implementer(ICommitter)
class Committer(GroupCommit):
    """
    The committer of the only process that writes to the store.
    """

    _log = Logger()

    _store: IExclusiveStore

    def __init__(
        self, store: IExclusiveStore, reactor: IReactorTime, **options: Any
    ) -> None:
        """
        Make the committer with the C{options} of L{GroupCommit}; L{start} opens the store.
        """
        super().__init__(store, reactor, **options)
        self._remembered_keys = RememberedKeys()
        self._refused_steps = 0
        self._next_refusal_log = -math.inf

    async def start(self, on_standby: Callable[[], object] | None = None) -> None:
        cursor = await self._store.open(on_standby)
        self._remembered_keys = self._store.remembered_keys
        self._continue_from(state_at(*cursor))
        self._own_refusal = self.read_refusal = None

    def wait_for_commit(self) -> Deferred[None]:
        if self._committing_batch is None:
            return succeed(None)
        return self._next_commit_end()

    @property
    def step_refusal(self) -> Refusal | None:
        return self._own_refusal or self._store.commit_refusal()

    def read_durable(self) -> Deferred[State]:
        return succeed(self.durable)

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        def failed(failure: Failure) -> Failure:
            if not failure.check(StoreDamaged):
                return failure
            self._end_process(failure, Refusal(_DAMAGED))
            return Failure(Refusal(_DAMAGED))

        return self._store.history(before, limit).addErrback(failed)

    def read(self, waiter: Waiter) -> None:
        if self.read_refusal is None:
            waiter.respond(_READ, self.durable)
        else:
            waiter.fail(self.read_refusal)

    def step(self, step: Step, waiter: Waiter) -> None:
        # step_refusal is not used here, because it makes system calls for each step.  If
        # the disk is full, commit() refuses the whole batch.
        if self._own_refusal is not None:
            self._refuse(step, waiter, self._own_refusal)
        elif step.key is not None and (first_use := self._find_use(step.key)) is not None:
            self._respond_to_used_key(step, waiter, *first_use)
        elif step.precondition is not None and not step.precondition(self._latest):
            # The batch that makes the latest state durable; None if it is durable already.
            open_batch = self._open_batch
            batch = open_batch if open_batch.transitions else self._committing_batch
            request = (step, waiter, Outcome.PRECONDITION_FAILED, self._latest)
            self._respond_when_visible(request, batch)
        else:
            self._accept(step, waiter)

    def _find_use(self, key: bytes) -> tuple[KeyUse, PendingBatch | None] | None:
        """
        Find the first use of an idempotency key.

        @return: C{None} if the key was not used; otherwise the first use and its batch.
            If the first use is durable, the batch is C{None}.
        """
        if (in_batch := self._find_use_in_batches(key)) is not None:
            return in_batch
        first_use = self._remembered_keys.find(key)
        return None if first_use is None else (first_use, None)

    def _state_at(self, revision: int, position: int) -> State:
        return _cached_state_at(revision, position)

    def _commit_succeeded(self, batch: PendingBatch, after: State) -> None:
        # _find_use_in_batches does not find this batch's keys any more, so remember them.
        self._remembered_keys.add(batch.keys)
        super()._commit_succeeded(batch, after)

    def _commit_failed(self, batch: PendingBatch, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, Refusal):
            # Each step adds 1 to the revision, so this counts the steps of both batches.
            self._log_refusal(error, self._latest.revision - self.durable.revision)
            self._roll_back((batch, error), (self._open_batch, error))
            return
        refusal = Refusal(_DAMAGED if isinstance(error, StoreDamaged) else _FAILED)
        # After a StoreError, the steps are not stored.  After an OutcomeUnknown or a bug in
        # the store, the steps may be stored.
        not_stored = isinstance(error, StoreError)
        client_error = refusal if not_stored else OutcomeUnknown(_FAILED)
        self._end_process(failure, refusal, (batch, client_error))

    def _log_refusal(self, refusal: Refusal, refused_steps: int) -> None:
        """
        Log, at most once a second, how many steps were refused since the last such line.
        """
        self._refused_steps += refused_steps
        now = self._seconds()
        if now >= self._next_refusal_log:
            self._log.error(
                "{refusal}: {count} steps were refused",
                refusal=refusal,
                count=self._refused_steps,
            )
            self._refused_steps = 0
            self._next_refusal_log = now + REFUSAL_LOG_INTERVAL_SECONDS
