"""
The committer of a store that only this process writes to.

Reads show the durable state, so a crash cannot undo a state that a client has read.  A step
does not move the cursor if its condition is not met or its key was used before.  Its
response shows the state that did not meet the condition, or the state after the first use.
If that state is not durable yet, the response waits for the commit of its batch.

If a commit fails and the store surely does not have the batch, the steps of both batches
never happened.  If it is unknown whether the store has the batch, the committer accepts
nothing more and the process ends: only opening the store again shows the truth.

With synchronous commit off, responses are sent before the commit, reads show the latest
state, and the commit begins at most L{DELAY_SECONDS} later.  If the store then refuses a
batch, the steps that already got their responses are lost.  From then on, responses wait
for the commit until the store accepts a batch again, so no more steps are lost.
"""

from __future__ import annotations

import math
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.counters import NOT_TAKEN
from pexservice.commit.group_commit import GroupCommit, StepBatch, cached_state_at
from pexservice.commit.interface import ICommitter, Outcome, Step, Waiter
from pexservice.core.cursor import State, state_at
from pexservice.stores.interface import (
    Batch,
    HistoryEntry,
    IExclusiveStore,
    OutcomeUnknown,
    Refusal,
    StoreDamaged,
    StoreUnusable,
)
from pexservice.stores.remembered_keys import RememberedKeys

#: With synchronous commit off, how long a batch collects steps.
DELAY_SECONDS = 0.01

#: With synchronous commit off, how many steps of a batch get a response before the commit.
#: Later steps wait for the commit: if the disk hangs, clients wait, and no more steps can
#: be lost.  This is four times the number of steps that arrive in L{DELAY_SECONDS} at
#: 100,000/s.
MAX_EARLY_RESPONSES = 4096

#: The minimum time between two log lines about refused steps.  With a full disk, thousands
#: of steps a second are refused, and the log may be on the same disk.
REFUSAL_LOG_INTERVAL_SECONDS = 1.0

_DAMAGED = "the store is damaged"

# An alias for speed; see L{Outcome}.
_READ = Outcome.READ


@implementer(ICommitter)
class Committer(GroupCommit):
    """
    The committer of a store that only this process writes to.
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
        # The damage of the store that a read has found.  It makes the next commit fail.
        self._damage: StoreDamaged | None = None
        # True only while synchronous commit is off and the store takes its batches.
        self._responds_early = False
        self._set_early_responses(on=not synchronous)
        self._refused_steps = 0
        self._next_refusal_log = -math.inf

    def _set_early_responses(self, *, on: bool) -> None:
        self._responds_early = on
        self.delay_seconds = DELAY_SECONDS if on else 0.0

    async def start(self) -> None:
        revision, position, self._remembered_keys = await self._store.open()
        self.restart_from(state_at(revision, position))
        self._own_refusal = self.read_refusal = None

    def wait_for_commit(self) -> Deferred[None]:
        return succeed(None) if self.committing_batch is None else self.when_commit_ends()

    @property
    def visible(self) -> State:
        return self.latest if self._responds_early else self.durable

    @property
    def step_refusal(self) -> Refusal | None:
        return self._own_refusal or self._store.commit_refusal()

    def read_durable(self) -> Deferred[State]:
        return succeed(self.durable)

    def history(self, before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        # A row that is newer than the durable state is not shown.
        newest = self.durable.revision + 1
        before = newest if before is None else min(before, newest)

        def failed(failure: Failure) -> Failure:
            return Failure(self._handle_read_error(cast(Exception, failure.value)))

        return self._store.history(before, limit).addErrback(failed)

    def read(self, waiter: Waiter) -> None:
        if self.read_refusal is None:
            waiter.respond(_READ, self.latest if self._responds_early else self.durable)
        else:
            waiter.fail(self.read_refusal)

    def step(self, step: Step, waiter: Waiter) -> None:
        if self._own_refusal is not None:
            self.counts.count(NOT_TAKEN, step.transition.code)
            waiter.fail(self._own_refusal)
        elif step.key is not None and self._key_was_used(step.key, step, waiter):
            return
        elif step.condition is not None and not step.condition(self.latest):
            open_batch = self.open_batch
            batch = open_batch if open_batch.transitions else self.committing_batch
            outcome, state = Outcome.PRECONDITION_FAILED, self.latest
            self.deliver_when_durable(waiter, step, outcome, state, self._awaited(batch))
        elif (
            self._responds_early and len(self.open_batch.transitions) < MAX_EARLY_RESPONSES
        ):
            waiter.respond(Outcome.APPLIED, self.add(step, None))
        else:
            self.add(step, waiter)

    def _key_was_used(self, key: bytes, step: Step, waiter: Waiter) -> bool:
        """
        If the C{key} of C{step} was used before, give C{waiter} the outcome of that use.

        @return: whether it was used.
        """
        use = self.find_key(key)
        if use is not None:
            used, state, batch = use
            self.replay(waiter, step, used, state, self._awaited(batch))
            return True
        first = self._remembered_keys.find(key)
        if first is None:
            return False
        state = cached_state_at(first.revision, first.position)
        self.replay(waiter, step, first.transition, state)
        return True

    def _awaited(self, batch: StepBatch | None) -> StepBatch | None:
        """
        Return the batch whose commit a response waits for, or C{None}.

        With synchronous commit off, the response waits only if some steps of the batch
        wait: a response that shows one of these steps must not go out before its own.

        @param batch: the batch that leads to the state in the response.
        """
        if batch is None or (
            self._responds_early and len(batch.transitions) <= MAX_EARLY_RESPONSES
        ):
            return None
        return batch

    def _store_batch(self, batch: Batch) -> Deferred[None]:
        if self._damage is not None:
            return fail(self._damage)
        return self._store.commit(batch).addCallback(self._stored, batch)

    def _stored(self, _: None, batch: Batch) -> None:
        # Until now, find_key has found these keys in the committing batch.
        self._remembered_keys.add(batch.keys)
        self._set_early_responses(on=not self._synchronous)

    def _commit_failed(self, batch: StepBatch, failure: Failure) -> None:
        if isinstance(failure.value, Refusal):
            self._refuse_steps(batch, failure.value)
        else:
            self._end_after_failed_commit(batch, failure)

    def _refuse_steps(self, batch: StepBatch, refusal: Refusal) -> None:
        steps = self.latest.revision - self.durable.revision
        if self._responds_early:
            waiting = sum(
                outcome is Outcome.APPLIED
                for waiting_requests in (
                    batch.waiting_requests,
                    self.open_batch.waiting_requests,
                )
                for _, outcome, _, _ in waiting_requests
            )
            self._log.critical(
                "{refusal}: {lost} transitions that got a response are lost; responses wait"
                " for the disk until the store accepts a batch again",
                refusal=refusal,
                lost=steps - waiting,
            )
        else:
            self._log_refusal(refusal, steps)
        self._set_early_responses(on=False)
        self.roll_back(batch, refusal, refusal)

    def _log_refusal(self, refusal: Refusal, steps: int) -> None:
        """
        Log how many steps were refused since the last such line, once a second at most.
        """
        self._refused_steps += steps
        now = self._seconds()
        if now >= self._next_refusal_log:
            self._log.error(
                "{refusal}: {lost} transitions were refused",
                refusal=refusal,
                lost=self._refused_steps,
            )
            self._refused_steps = 0
            self._next_refusal_log = now + REFUSAL_LOG_INTERVAL_SECONDS

    def _end_after_failed_commit(self, batch: StepBatch, failure: Failure) -> None:
        """
        End the process after the failed commit of C{batch}.

        With a L{StoreUnusable}, such as damage, nothing was written.  After any other
        error, it is unknown whether the disk has the batch.
        """
        not_written = failure.check(StoreUnusable) is not None
        damaged = failure.check(StoreDamaged) is not None
        self._own_refusal = refusal = Refusal(_DAMAGED if damaged else "the store failed")
        self._set_early_responses(on=False)
        self._fatal(failure)
        unknown = OutcomeUnknown("the store failed while the step was under way")
        self.roll_back(batch, refusal if not_written else unknown, refusal)

    def _handle_read_error(self, error: Exception) -> Exception:
        """
        Return the error for the client, after a read of the store has raised C{error}.

        If the store is damaged, the committer accepts no more steps and ends the process.
        """
        if not isinstance(error, StoreDamaged):
            return error
        self._damage = error
        self._own_refusal = Refusal(_DAMAGED)
        self._fatal(Failure(error))
        return self._own_refusal
