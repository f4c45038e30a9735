"""
The committer of a store that only this process writes to.

Reads show the durable state, so a crash cannot undo a state that a client has read.

If the condition of a step is not met, the response shows the state that did not meet the
condition.  If the key of a step was used before, the response shows the state after the
first use.  In both cases the cursor does not move, and the response waits until the shown
state is durable.

If the store refuses a batch, the steps of this batch and of the open batch never happened.
After any other error the committer accepts no more steps, and the process ends.  The next
process reads from the store whether the steps happened.

With C{--synchronous-commit off}, the committer sends I{early responses}: it responds before
the commit, and reads show the latest state.  The commit begins L{DELAY_SECONDS} after the
first step of the batch.  If another commit is in progress then, the commit begins when the
other one ends.  If the store then refuses the batch, the acknowledged steps are lost.  To
lose no more steps, the committer sends no early responses until the store has accepted a
batch.
"""

from __future__ import annotations

import math
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.counters import NOT_TAKEN
from pexservice.commit.group_commit import GroupCommit, PendingBatch, cached_state_at
from pexservice.commit.interface import ICommitter, Outcome, Step, Waiter
from pexservice.core.cursor import State, Transition, state_at
from pexservice.stores.interface import (
    HistoryEntry,
    IExclusiveStore,
    OutcomeUnknown,
    Refusal,
    StoreDamaged,
    StoreError,
)
from pexservice.stores.remembered_keys import RememberedKeys

#: With early responses, how long a batch collects steps.
DELAY_SECONDS = 0.01

#: How many steps of a batch get early responses.  The other steps of the batch wait for the
#: commit.  So if the disk hangs, at most twice this number of acknowledged steps is lost:
#: those of the committing batch and those of the open batch.  At 100,000 steps a second,
#: 1,000 steps arrive in L{DELAY_SECONDS}.
MAX_EARLY_RESPONSES = 4096

#: The minimum time between two log lines about refused steps.  While the disk is full,
#: thousands of steps a second are refused, and the log may be on the same disk.
REFUSAL_LOG_INTERVAL_SECONDS = 1.0

_DAMAGED, _FAILED = "the store is damaged", "the store failed during a commit"

# An alias for speed; see L{Outcome}.
_READ = Outcome.READ


@implementer(ICommitter)
class Committer(GroupCommit):
    """
    The committer of the only process that writes to the store.
    """

    _log = Logger()

    _store: IExclusiveStore

    def __init__(
        self,
        store: IExclusiveStore,
        reactor: IReactorTime,
        *,
        synchronous: bool = True,
        **options: Any,
    ) -> None:
        """
        Make the committer of C{store}; L{start} opens the store.

        @param synchronous: whether responses wait for the commit.
        @param options: those of L{GroupCommit}.
        """
        super().__init__(store, reactor, **options)
        self._synchronous = synchronous
        self._remembered_keys = RememberedKeys()
        self._set_early_responses(on=not synchronous)
        self._refused_steps = 0
        self._next_refusal_log = -math.inf

    def _set_early_responses(self, *, on: bool) -> None:
        """
        Switch early responses, and the longer delay of batches for them, on or off.
        """
        self._responds_early = on
        self.delay_seconds = DELAY_SECONDS if on else 0.0

    async def start(self) -> None:
        revision, position, self._remembered_keys = await self._store.open()
        self.restart_from(state_at(revision, position))
        self.committer_refusal = self.read_refusal = None

    def wait_for_commit(self) -> Deferred[None]:
        return succeed(None) if self.committing_batch is None else self.when_commit_ends()

    @property
    def visible(self) -> State:
        return self.latest if self._responds_early else self.durable

    @property
    def step_refusal(self) -> Refusal | None:
        return self.committer_refusal or self._store.commit_refusal()

    def read_durable(self) -> Deferred[State]:
        return succeed(self.durable)

    def history(self, before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        # The store may have newer rows, from a commit in its thread.  They are not shown.
        above_durable = self.durable.revision + 1
        before = above_durable if before is None else min(before, above_durable)

        def failed(failure: Failure) -> Failure:
            if not failure.check(StoreDamaged):
                return failure
            self.stop_accepting(Refusal(_DAMAGED))
            self._fatal(failure)
            return Failure(Refusal(_DAMAGED))

        return self._store.history(before, limit).addErrback(failed)

    def read(self, waiter: Waiter) -> None:
        if self.read_refusal is None:
            # This is the value of self.visible, without the call of a property.
            waiter.respond(_READ, self.latest if self._responds_early else self.durable)
        else:
            waiter.fail(self.read_refusal)

    def step(self, step: Step, waiter: Waiter) -> None:
        # If the store refuses a batch, it does so in commit().
        if self.committer_refusal is not None:
            self.counts.count(NOT_TAKEN, step.transition.code)
            waiter.fail(self.committer_refusal)
        elif step.key is not None and (first_use := self._find_key(step.key)) is not None:
            self.respond_to_used_key(waiter, step, *first_use)
        elif step.condition is not None and not step.condition(self.latest):
            open_batch = self.open_batch
            batch = open_batch if open_batch.transitions else self.committing_batch
            outcome, state = Outcome.PRECONDITION_FAILED, self.latest
            self.deliver_without_step(
                waiter, step, outcome, state, self._batch_to_await(batch)
            )
        elif (
            self._responds_early and len(self.open_batch.transitions) < MAX_EARLY_RESPONSES
        ):
            waiter.respond(Outcome.APPLIED, self.add(step, None))
        else:
            self.add(step, waiter)

    def _find_key(self, key: bytes) -> tuple[Transition, State, PendingBatch | None] | None:
        """
        Find the first use of an idempotency key.

        @return: the transition, the state after it, and the batch that the response waits
            for, if any; C{None} if the key was not used.
        """
        in_batch = self.find_key_in_batches(key)
        if in_batch is not None:
            transition, state, batch = in_batch
            return transition, state, self._batch_to_await(batch)
        remembered = self._remembered_keys.find(key)
        if remembered is None:
            return None
        transition, revision, position = remembered
        return transition, cached_state_at(revision, position), None

    def _batch_to_await(self, batch: PendingBatch | None) -> PendingBatch | None:
        """
        Return the batch whose commit a response with a state of C{batch} must wait for.

        With early responses, the first L{MAX_EARLY_RESPONSES} steps of a batch have their
        responses already.  If the batch has more steps, the state may be the result of a
        step that has no response yet, so the response waits.

        @return: C{batch}; C{None} if the response need not wait.
        """
        if batch is None or (
            self._responds_early and len(batch.transitions) <= MAX_EARLY_RESPONSES
        ):
            return None
        return batch

    def _commit_succeeded(self, batch: PendingBatch, after: State) -> None:
        # These keys were found in the committing batch.  The commit has ended, so from now
        # on they are found among the remembered keys.
        self._remembered_keys.add(batch.keys)
        self._set_early_responses(on=not self._synchronous)
        super()._commit_succeeded(batch, after)

    def _commit_failed(self, batch: PendingBatch, failure: Failure) -> None:
        if isinstance(failure.value, Refusal):
            self._refuse_steps(batch, failure.value)
        else:
            self._end_after_failed_commit(batch, failure)

    def _refuse_steps(self, batch: PendingBatch, refusal: Refusal) -> None:
        steps = self.latest.revision - self.durable.revision
        if self._responds_early:
            waiting = [*batch.waiting_requests, *self.open_batch.waiting_requests]
            unacknowledged = sum(outcome is Outcome.APPLIED for _, outcome, _, _ in waiting)
            self._log.critical(
                "{refusal}: {count} acknowledged steps are lost; responses wait for the"
                " disk until the store accepts a batch",
                refusal=refusal,
                count=steps - unacknowledged,
            )
        else:
            self._log_refusal(refusal, steps)
        self._set_early_responses(on=False)
        self.roll_back(batch, refusal, refusal)

    def _log_refusal(self, refusal: Refusal, steps: int) -> None:
        """
        Log, at most once a second, how many steps were refused since the last such line.
        """
        self._refused_steps += steps
        now = self._seconds()
        if now >= self._next_refusal_log:
            self._log.error(
                "{refusal}: {count} steps were refused",
                refusal=refusal,
                count=self._refused_steps,
            )
            self._refused_steps = 0
            self._next_refusal_log = now + REFUSAL_LOG_INTERVAL_SECONDS

    def _end_after_failed_commit(self, batch: PendingBatch, failure: Failure) -> None:
        """
        End the process after the failed commit of C{batch}.

        If the error is a L{StoreError}, nothing was written.  After any other error, it
        is unknown whether the disk has the batch.
        """
        error = failure.value
        damaged = isinstance(error, StoreDamaged)
        self.committer_refusal = refusal = Refusal(_DAMAGED if damaged else _FAILED)
        self._set_early_responses(on=False)
        not_written = isinstance(error, StoreError)
        self.roll_back(batch, refusal if not_written else OutcomeUnknown(_FAILED), refusal)
        self._fatal(failure)
