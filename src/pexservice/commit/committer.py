"""
The committer of a store that only this process writes to.

Reads show the durable state, so a crash cannot undo a state that a client read.  A step
that does not move the cursor (its condition is not met, or its key was used before) may
refer to a state that is not durable yet.  Its response then waits for the batch that leads
to that state.

If a batch surely is not in the store, its steps and all later ones never happened.  If that
is unknown, the committer accepts nothing more and the process ends, because only opening
the store again shows whether the batch is there.

With synchronous commit off, responses go out first, reads show the latest state, and the
commit follows at most L{DELAY_SECONDS} later.  If the store then refuses a batch, the steps
whose responses went out are lost.  No more are lost, since from then on responses wait for
the commit until the store accepts a batch again.
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
)
from pexservice.stores.remembered_keys import RememberedKeys

#: With synchronous commit off, how long a batch collects steps.
DELAY_SECONDS = 0.01

#: With synchronous commit off, how many steps of a batch get a response before the commit.
#: Later steps wait for it: if the disk hangs, clients wait, and no more steps can be lost.
#: This is four times the steps that arrive in L{DELAY_SECONDS} at 100,000/s.
MAX_EARLY_RESPONSES = 4096

#: How often refused steps are logged: a full disk refuses thousands of steps a second, and
#: the log may be on the same disk.
REFUSAL_LOG_INTERVAL_SECONDS = 1.0

_DAMAGED = "the store is damaged"

# Reading a global is three times faster than an Enum attribute.
_READ = Outcome.READ


@implementer(ICommitter)
class Committer(GroupCommit):
    """
    The committer of a store that only this process writes.
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

        @param synchronous: commit before the response.
        @param options: those of L{GroupCommit}.
        """
        super().__init__(store, reactor, **options)
        self._synchronous = synchronous
        self._remembered_keys = RememberedKeys()
        # Damage of the store that a read found; the next commit fails because of it.
        self._damage: StoreDamaged | None = None
        # True only while synchronous commit is off and the store takes its batches.
        self._responds_early = False
        self._respond_early(on=not synchronous)
        self._refused_steps = 0
        self._next_refusal_log = -math.inf

    def _respond_early(self, *, on: bool) -> None:
        self._responds_early = on
        self.delay_seconds = DELAY_SECONDS if on else 0.0

    async def start(self) -> None:
        """
        Open the store, and start from its cursor.
        """
        revision, position, self._remembered_keys = await self._store.open()
        self.restart_from(state_at(revision, position))
        self._process_refusal = self.read_refusal = None

    def wait_for_commit(self) -> Deferred[None]:
        """
        Wait for the commit in progress, if there is one.
        """
        return succeed(None) if self.committing_batch is None else self.when_commit_ends()

    @property
    def visible(self) -> State:
        return self.latest if self._responds_early else self.durable

    @property
    def step_refusal(self) -> Refusal | None:
        return self._process_refusal or self._store.shortage()

    def read_durable(self) -> Deferred[State]:
        return succeed(self.durable)

    def history(self, before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Read a page of the history, with nothing newer than the durable state.
        """
        newest = self.durable.revision + 1
        before = newest if before is None else min(before, newest)

        def failed(failure: Failure) -> Failure:
            return Failure(self._error_for_client(cast(Exception, failure.value)))

        return self._store.history(before, limit).addErrback(failed)

    def read(self, waiter: Waiter) -> None:
        """
        Show the durable state; with synchronous commit off, the latest one.
        """
        if self.read_refusal is None:
            waiter.respond(_READ, self.latest if self._responds_early else self.durable)
        else:
            waiter.fail(self.read_refusal)

    def step(self, step: Step, waiter: Waiter) -> None:
        """
        Make C{step}, unless its key was used before or its condition is not met.
        """
        if self._process_refusal is not None:
            self.counts.count(NOT_TAKEN, step.transition.code)
            waiter.fail(self._process_refusal)
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
        Return whether the C{key} of C{step} was used before; if so, call C{waiter}.
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
        Return the batch that a response waits for; C{None} if it does not wait.

        With synchronous commit off it waits only if some steps of the batch wait: a
        response that shows one of them must not go out before it.
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
        # Until now L{find_key} found these keys in the committing batch.
        self._remembered_keys.add(batch.keys)
        self._respond_early(on=not self._synchronous)

    def _commit_failed(self, batch: StepBatch, failure: Failure) -> None:
        """
        Roll back, if C{batch} surely did not happen; else end the process.
        """
        if isinstance(failure.value, Refusal):
            self._refuse_steps(batch, failure.value)
        else:
            self._end_process_after(batch, failure)

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
        self._respond_early(on=False)
        self.roll_back(batch, refusal, refusal)

    def _log_refusal(self, refusal: Refusal, steps: int) -> None:
        """
        Log how many steps were refused since the last such line, unless that was just now.
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

    def _end_process_after(self, batch: StepBatch, failure: Failure) -> None:
        """
        End the process.

        Unless the store is damaged, it is unknown whether the disk has the batch; only
        opening the store again shows that.
        """
        damaged = failure.check(StoreDamaged) is not None
        self._process_refusal = refusal = Refusal(
            _DAMAGED if damaged else "the store failed"
        )
        self._respond_early(on=False)
        self._fatal(failure)
        unknown = OutcomeUnknown("the store failed while the step was under way")
        self.roll_back(batch, refusal if damaged else unknown, refusal)

    def _error_for_client(self, error: Exception) -> Exception:
        """
        Return the error that clients get for C{error}, which a read of the store raised.

        If the store is damaged, the committer accepts nothing more and ends the process.
        """
        if not isinstance(error, StoreDamaged):
            return error
        self._damage = error
        self._process_refusal = Refusal(_DAMAGED)
        self._fatal(Failure(error))
        return self._process_refusal
