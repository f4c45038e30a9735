"""
Group commit: steps that arrive at about the same time share one commit.

A durable commit of a thousand steps takes little longer than a commit of one step.  So the
committer collects steps in a batch, and the store writes the batch in one transaction.
When the batch is durable, the responses are sent.  At most two batches exist: the I{open
batch} collects steps, and the I{committing batch} is being written.

To I{accept} a step, the committer applies it to the latest state, and adds it to the open
batch.  The I{latest} state is the state after all accepted steps.  The I{durable} state is
the newest state that is known to be in the store.

In this example, A, B, C and D are steps, and each commit takes three iterations of the
event loop::

    iteration  arriving  open batch  committing batch  responses
    1          A         A           -                 -
    2          -         A           -                 -
    3          -         -           A                 -
    4          B, C      B, C        A                 -
    5          D         B, C, D     A                 -
    6          -         B, C, D     -                 A
    7          -         -           B, C, D           -
    8          -         -           B, C, D           -
    9          -         -           B, C, D           -
    10         -         -           -                 B, C, D

In this example, the first iteration without a new step makes a batch ready, if no commit is
in progress.  Iteration 2 has no new step, so the commit of A begins in iteration 3.
Iteration 6 has no new step, so the commit of B, C and D begins in iteration 7.
L{pexservice.commit.batching_policy} has the whole rule.

One step goes through these methods of L{GroupCommit}:

  1. C{_accept} applies the step to the latest state, and adds it to the open batch.
  2. C{_commit_or_wait} runs in each iteration until the open batch is ready.
  3. C{_begin_commit} calls C{_write_open_batch}, which gives the batch to the store.
  4. C{_commit_succeeded} or C{_commit_failed} runs when the store has responded.
  5. C{_deliver} calls the waiter of the step, and the waiter sends the response.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.batching_policy import BatchingPolicy
from pexservice.commit.counters import NOT_STORED, UNKNOWN, Counts
from pexservice.commit.interface import (
    CommitterBug,
    KeyReused,
    Outcome,
    Step,
    Waiter,
)
from pexservice.core.cursor import INITIAL, State, apply
from pexservice.core.sequence import TermCache
from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.stores.interface import Batch, IStore
from pexservice.stores.remembered_keys import KeyUse, pack_use, unpack_use

# An alias for speed; see L{Outcome}.
_APPLIED = Outcome.APPLIED

#: A request whose response waits for a commit, as a tuple (step, waiter, result, state).
#: If the commit succeeds, the waiter gets the result and the state; the result is an
#: outcome or L{KeyReused}.  With a class instead of a plain tuple, the committer executes
#: 10 to 20 % more instructions for each step.
WaitingRequest = tuple[Step, Waiter, Outcome | KeyReused, State]


@define
class PendingBatch:
    """
    Steps that share a commit, and the requests that wait for it.

    @ivar before: the state that the first step was applied to.
    @ivar transitions: one code byte for each step.
    @ivar waiting_requests: the requests whose response waits for the commit, in order.
        Most of them are the steps of this batch.  The others were not applied, because the
        key was used before or the precondition is not met.  But their responses show a
        state after steps of this batch, so they wait until the batch is durable.
    @ivar keys: for each idempotency key, its packed use: transition, revision and position;
        see C{pack_use}.
    """

    before: State
    transitions: bytearray = Factory(bytearray)
    waiting_requests: list[WaitingRequest] = Factory(list)
    keys: dict[bytes, bytes] = Factory(dict)


#: A batch whose requests fail, and the error that they get.
FailedBatch = tuple[PendingBatch, Exception]


def _outcome_label(outcome: Outcome, error: Exception | None) -> str:
    """
    Return the name under which the metrics count a step with C{outcome}, or with C{error}.
    """
    if error is None:
        return outcome.value
    return UNKNOWN if isinstance(error, OutcomeUnknown) else NOT_STORED


class GroupCommit:
    """
    The common part of the committers, which are subclasses of this class.

    The public methods and attributes are those of
    L{ICommitter<pexservice.commit.interface.ICommitter>}.  A subclass adds C{start},
    C{step}, C{step_refusal}, C{read}, C{read_durable}, C{history} and C{wait_for_commit}.
    It must also define L{_state_at} and L{_commit_failed}, and may override
    L{_schedule_commit}, L{_begin_commit}, L{_write_open_batch}, L{_commit_succeeded} and
    L{_roll_back}.

    @ivar _max_early_responses: how many steps of a batch get their responses before the
        commit.  It is 0, except with C{--synchronous-commit off}.  This is a number and
        not a method of the subclasses, because a call for each step would take 2.6 % of the
        committer's time.
    @ivar _latest: the state after all accepted steps.
    @ivar _open_batch: the batch that collects steps.
    @ivar _committing_batch: the batch being written; C{None} if there is none.
    @ivar _own_refusal: why this committer refuses every step now: it is starting or
        stopping, or it has failed.  C{None} while it runs; the store may still refuse
        steps.
    """

    _log = Logger()

    def __init__(
        self,
        store: IStore,
        reactor: IReactorTime,
        *,
        on_fatal_failure: Callable[[Failure], None],
        time_ns: Callable[[], int] = time.time_ns,
        call_soon: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        """
        Make the committer of C{store}, without opening the store.

        @param on_fatal_failure: called with a failure that must end the process: a failed
            commit (except a L{Refusal}), damage that a read has found, or a
            L{CommitterBug}.
        @param call_soon: schedules a call for the next iteration of the event loop, and
            returns a handle that can cancel this call.  The default is a timer without a
            delay, which takes 8 microseconds longer.
        """
        self._store = store
        self._reactor = reactor
        self._seconds = reactor.seconds
        self._on_fatal_failure = on_fatal_failure
        self._time_ns = time_ns
        self._policy = BatchingPolicy()
        self._term_cache = TermCache()
        self.counts = Counts()
        self._max_early_responses = 0
        self.durable = self._latest = INITIAL
        self._open_batch = PendingBatch(INITIAL)
        self._committing_batch: PendingBatch | None = None
        self._call_soon = call_soon or partial(reactor.callLater, 0)
        # The scheduled call of _commit_or_wait, if there is one.
        self._scheduled_call: Any = None
        # These fire when the next commit ends.
        self._commit_end_deferreds: list[Deferred[None]] = []
        self._own_refusal: Refusal | None = Refusal("the cursor is not read yet")
        self.read_refusal: Refusal | None = self._own_refusal

    # From the start to the end of the process.

    def _continue_from(self, state: State) -> None:
        """
        Continue from the durable C{state} with an empty open batch.
        """
        self.durable = self._latest = state
        self._open_batch = PendingBatch(state)

    def refuse_all(self, reason: str) -> None:
        self._own_refusal = self.read_refusal = Refusal(reason)

    @property
    def visible(self) -> State:
        return self.durable

    @property
    def _is_idle(self) -> bool:
        """
        Return whether no step waits for a commit.
        """
        return self._committing_batch is None and not self._open_batch.transitions

    async def stop(self) -> None:
        self._own_refusal = self._own_refusal or Refusal("the service is stopping")
        while not self._is_idle:
            # The commit may end before _begin_commit returns, so the Deferred is made now.
            end = self._next_commit_end()
            self._begin_commit()
            await end
        await self._store.close()

    def _end_process(
        self, failure: Failure, refusal: Refusal, *failed: FailedBatch
    ) -> None:
        """
        Accept no more steps, and end the process because of C{failure}.

        @param refusal: why the steps of the open batch, and later steps, are refused.
        @param failed: the batch whose commit failed, if there is one.
        """
        self._own_refusal = refusal
        self._roll_back(*failed, (self._open_batch, refusal))
        self._on_fatal_failure(failure)

    def _end_process_after_bug(self, failure: Failure) -> None:
        """
        End the process because of C{failure}, which is a bug.

        The bug may have happened while the waiters of a batch got their outcomes.  This
        method cannot know which of them did.  So it calls none of them, and some clients
        may get no response.
        """
        self._log.failure("the committer failed", failure=failure)
        bug = Failure(CommitterBug(f"a bug: {failure.value!r}"))
        self._end_process(bug, Refusal("the service failed"))
        self._committing_batch = None
        self._continue_after_commit()

    # One step.

    def _accept(self, step: Step, waiter: Waiter) -> None:
        """
        Apply C{step} to the latest state, and add it to the open batch.

        @param waiter: gets the outcome after the commit, or now as an early response.
        """
        batch = self._open_batch
        transitions, transition = batch.transitions, step.transition
        if not transitions:
            self._policy.begin_batch(self._seconds())
        self._latest = state = apply(self._latest, transition, self._term_cache)
        transitions += transition.code
        if step.key is not None:
            batch.keys[step.key] = pack_use(transition.code, state.revision, state.position)
        if self._scheduled_call is None and self._committing_batch is None:
            # The commit begins in the next iteration of the event loop or later, so the
            # batch gets all steps that arrive in this iteration.
            self._schedule_commit()
        if self._max_early_responses and len(transitions) <= self._max_early_responses:
            waiter.respond(_APPLIED, state)
        else:
            batch.waiting_requests.append((step, waiter, _APPLIED, state))

    def _refuse(self, step: Step, waiter: Waiter, refusal: Refusal) -> None:
        self.counts.count(NOT_STORED, step.transition.code)
        waiter.fail(refusal)

    def _respond_when_visible(
        self, request: WaitingRequest, batch: PendingBatch | None
    ) -> None:
        """
        Respond to a C{request} that was not applied, as soon as clients may see its state.

        @param batch: the batch whose commit makes the state durable; C{None} if the state
            is durable already.
        """
        if batch is None or len(batch.transitions) <= self._max_early_responses:
            # Clients may see the state: it is durable, or all steps of the batch so far got
            # early responses.
            self._deliver_one(request)
        else:
            # A KeyReused waits too: if the commit fails, the first use of the key may not
            # be stored, and the KeyReused would be wrong.
            batch.waiting_requests.append(request)

    def _respond_to_used_key(
        self,
        step: Step,
        waiter: Waiter,
        first_use: KeyUse,
        batch: PendingBatch | None = None,
    ) -> None:
        """
        Give C{waiter} the state after the first use of the key of C{step}.

        If the key was first used for another transition, the waiter gets a L{KeyReused}.

        @param batch: the batch with the first use; C{None} if the first use is durable.
        """
        first_transition, revision, position = first_use
        is_replay = first_transition is step.transition
        outcome = Outcome.REPLAYED if is_replay else KeyReused(first_transition)
        state = self._state_at(revision, position)
        self._respond_when_visible((step, waiter, outcome, state), batch)

    def _state_at(self, revision: int, position: int) -> State:
        raise NotImplementedError

    def _find_use_in_batches(self, key: bytes) -> tuple[KeyUse, PendingBatch] | None:
        """
        Find an idempotency key in the open batch and in the committing batch.

        @return: the first use of the key, and its batch; C{None} if neither batch has the
            key.
        """
        for batch in (self._open_batch, self._committing_batch):
            if batch is not None and key in batch.keys:
                return unpack_use(batch.keys[key]), batch
        return None

    # One commit.

    def _schedule_commit(self) -> None:
        """
        Call L{_commit_or_wait} later, but not in this iteration of the event loop.
        """
        self._scheduled_call = self._call_soon(self._commit_or_wait)

    def _commit_or_wait(self) -> None:
        """
        Commit the open batch, or let it wait for one more iteration.

        The policy is asked in each iteration.  A timer would wait for at least one
        millisecond, which is longer than a commit on a fast disk.
        """
        self._scheduled_call = None
        policy, now = self._policy, self._seconds()
        policy.end_iteration(len(self._open_batch.transitions), now)
        if policy.is_ready(now):
            self._begin_commit()
        else:
            if policy.is_quiet:
                # Clients on this machine may need this CPU to send their next steps.
                os.sched_yield()
            self._schedule_commit()

    def _begin_commit(self) -> None:
        """
        Begin to commit the open batch, unless it is empty or another commit is in progress.
        """
        if self._committing_batch is not None or not self._open_batch.transitions:
            return
        if self._scheduled_call is not None:
            self._scheduled_call.cancel()
            self._scheduled_call = None
        self._write_open_batch()

    def _write_open_batch(self) -> None:
        """
        Write the open batch to the store, and call its waiters when it is durable.
        """
        pending, after = self._open_batch, self._latest
        batch = Batch(
            pending.before.cursor,
            bytes(pending.transitions),
            after.cursor,
            self._time_ns(),
            pending.keys,
        )
        self._committing_batch, self._open_batch = pending, PendingBatch(after)
        started = self._seconds()

        def handle_result(result: Failure | None) -> None:
            self._committing_batch = None
            if isinstance(result, Failure):
                self._commit_failed(pending, result)
            else:
                steps, seconds = len(pending.transitions), self._seconds() - started
                self._policy.learn(steps, seconds)
                self.counts.count_commit(steps, seconds)
                self._commit_succeeded(pending, after)
            self._continue_after_commit()

        committed = maybeDeferred(self._store.commit, batch).addBoth(handle_result)
        committed.addErrback(self._end_process_after_bug)

    def _commit_succeeded(self, batch: PendingBatch, after: State) -> None:
        self.durable = after
        self._deliver(batch)

    def _commit_failed(self, batch: PendingBatch, failure: Failure) -> None:
        """
        Handle the failed commit of C{batch}.

        Also handle the open batch, because its steps follow C{batch}.
        """
        raise NotImplementedError

    def _continue_after_commit(self) -> None:
        deferreds, self._commit_end_deferreds = self._commit_end_deferreds, []
        for deferred in deferreds:
            deferred.callback(None)
        steps = len(self._open_batch.transitions)
        if steps and self._scheduled_call is None and self._committing_batch is None:
            # The policy was not asked during the commit.  For the policy, the whole commit
            # counts as one iteration, in which the steps of the open batch arrived.
            self._policy.end_iteration(steps, self._seconds())
            self._schedule_commit()

    def _roll_back(self, *failed: FailedBatch) -> None:
        """
        Fail the requests of all failed batches.

        The latest state is set back to the state before the first of these batches.

        @param failed: pairs (batch, error): first the batch whose commit failed, if there
            is one, and then the open batch, whose steps the store never got.
        """
        self._latest = failed[0][0].before
        self._open_batch = PendingBatch(self._latest)
        for batch, error in failed:
            self._deliver(batch, error)

    def _deliver(self, batch: PendingBatch, error: Exception | None = None) -> None:
        """
        Give each request that waits for C{batch} its outcome, or C{error} if there is one.
        """
        self.counts.count(_outcome_label(_APPLIED, error), batch.transitions)
        deliver_one = self._deliver_one
        for request in batch.waiting_requests:
            try:
                deliver_one(request, error)
            except Exception:  # noqa: BLE001 the other waiters get their outcomes
                self._log.failure("a waiter failed")

    def _deliver_one(self, request: WaitingRequest, error: Exception | None = None) -> None:
        """
        Give one waiting C{request} its outcome, or C{error} if there is one.

        L{_deliver} has counted the applied steps.  A step that was not applied is counted
        here.  But L{KeyReused} is a mistake of the client, and is not counted.
        """
        step, waiter, outcome, state = request
        if outcome is not _APPLIED:
            if isinstance(outcome, KeyReused):
                waiter.fail(error or outcome)
                return
            self.counts.count(_outcome_label(outcome, error), step.transition.code)
        if error is None:
            waiter.respond(outcome, state)
        else:
            waiter.fail(error)

    def _next_commit_end(self) -> Deferred[None]:
        """
        Return a Deferred that fires when a commit ends: the one in progress, or the next.
        """
        deferred: Deferred[None] = Deferred()
        self._commit_end_deferreds.append(deferred)
        return deferred
