"""
Group commit: steps that arrive at about the same time share one commit.

A durable commit costs the same for one step as for a thousand.  So steps are collected in a
batch, the batch is written in one transaction, and the responses go out when it is durable.
Two batches exist at most: the I{open batch} collects steps, and the I{committing batch} is
being written.  For example, if a commit takes three turns of the reactor::

    turn  arrives   open batch  committing batch  responses
    1     A         A           none
    3               empty       A                           turn 2 added no step: A commits
    4     B, C      B, C        A
    5     D         B, C, D     A
    6               B, C, D     none              A         the store has A
    7               empty       B, C, D                     turn 6 added no step
    10              empty       none              B, C, D   the store has B, C and D

The C{latest} state is the state after all accepted steps, and the next step is applied to
it.  The C{durable} state is the state after the last batch that the store accepted.

One step goes through these methods of L{GroupCommit}::

    add -> _commit_or_wait (in each turn, until the batch is ready) -> commit_open_batch
        -> _when_ready -> write -> the store succeeds -> _deliver
                                -> the store fails    -> _commit_failed -> roll_back
                                                                        -> _deliver

Durations are measured with the reactor's clock.  By default, it is monotonic.  With
C{twistd --reactor=asyncio}, it is the wall clock.  After an operator sets that clock,
batches wait too long (L{MAX_WAIT_SECONDS} at most) or not at all for about a hundred
commits.  No step is lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import lru_cache, partial
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.counters import APPLIED, NOT_TAKEN, UNKNOWN, Counts
from pexservice.commit.interface import KeyReused, Outcome, Step, Waiter
from pexservice.core.cursor import INITIAL, State, Transition, follow, state_at
from pexservice.core.sequence import TermCache
from pexservice.stores.interface import (
    Batch,
    IStore,
    OutcomeUnknown,
    Refusal,
)
from pexservice.stores.remembered_keys import pack_use, unpack_use

#: A batch waits at most as long as this many average commits take.  A longer wait costs
#: more than it can save.
MAX_WAIT_COMMITS = 3

#: A batch waits at most this long for more steps, even if commits are slow.  With
#: synchronous commit off, L{pexservice.commit.committer.DELAY_SECONDS} applies instead.  On
#: etcd, a batch that is ready also waits for its node's turn.
MAX_WAIT_SECONDS = 0.002

#: The assumed duration before the first commit: the median on the reference disk.
INITIAL_COMMIT_SECONDS = 0.00025

#: The weight of the newest commit in the moving average of durations.
NEWEST_WEIGHT = 0.1


class BatchingPolicy:
    """
    Decides how long a batch waits for more steps.

    Waiting for steps that are about to arrive multiplies the throughput.  Waiting when none
    arrive only adds latency.  The clients of the last batch usually send their next steps
    soon after their responses.  So a batch is ready when it has as many steps as the last
    batch, and the last turn of the reactor added no step.  It is ready at the latest when
    the turns without a new step have taken as long as a commit, or after C{max_wait}.

    A batch may have more steps than the last one, because it also waits while each turn
    adds a few, for example from new connections.  Otherwise a small batch would always be
    followed by another small one.

    The policy is pure: it reads no clock.  All durations are in seconds.
    """

    def __init__(self) -> None:
        self._expected_steps = 1
        self._commit_seconds = INITIAL_COMMIT_SECONDS

    def is_ready(self, steps: int, *, quiet: bool, idle: float, waited: float) -> bool:
        """
        Return whether to commit a batch now.

        @param quiet: whether the last turn of the reactor added no step.
        @param idle: the total duration of the turns that added no step.
        @param waited: how long ago the first step arrived.
        """
        if quiet and steps >= self._expected_steps:
            return True
        return idle >= self._commit_seconds or waited >= self.max_wait

    @property
    def max_wait(self) -> float:
        return min(MAX_WAIT_COMMITS * self._commit_seconds, MAX_WAIT_SECONDS)

    def record_commit(self, steps: int, seconds: float) -> None:
        """
        Learn from a commit of C{steps} steps that took C{seconds}.
        """
        self._expected_steps = steps
        self._commit_seconds += NEWEST_WEIGHT * (seconds - self._commit_seconds)


class BatchPhase(Enum):
    """
    The phase of the open batch.
    """

    #: No commit is scheduled or in progress.
    IDLE = auto()
    #: The batch waits briefly for more steps.
    WAITING = auto()
    #: The batch is to be committed; on etcd, the node waits for its turn.
    READY = auto()
    #: The other batch is being committed; this one collects steps meanwhile.
    COLLECTING = auto()


# Computing a state far along the sequence takes milliseconds.  The cache helps when a
# client repeats the same step several times.
cached_state_at = lru_cache(maxsize=8)(state_at)

# Aliases for speed; see L{Outcome}.
_APPLIED, _IDLE = Outcome.APPLIED, BatchPhase.IDLE


@define
class StepBatch:
    """
    Steps that share a commit, and the requests that wait for it.

    @ivar before: the state that the first step was applied to.
    @ivar began: when the first step arrived, by the reactor's clock.
    @ivar last_step_count: how many steps the batch had at the end of the last turn of the
        reactor.
    @ivar last_checked_at: when that turn ended.
    @ivar idle_seconds: the total duration of the turns that added no step.
    @ivar transitions: one code byte for each step.
    @ivar waiting_requests: waiter, outcome, state and step of each request whose response
        waits for the commit, in order.  Among them are steps that did not move the cursor,
        and show a state of this batch or fail: a L{KeyReused} is then the outcome.
    @ivar keys: the idempotency keys of the steps, each with the record of its use.
    """

    before: State
    began: float = 0.0
    last_step_count: int = 0
    last_checked_at: float = 0.0
    idle_seconds: float = 0.0
    transitions: bytearray = Factory(bytearray)
    waiting_requests: list[tuple[Waiter, Outcome | KeyReused, State, Step]] = Factory(list)
    keys: dict[bytes, bytes] = Factory(dict)


class GroupCommit:
    """
    The base class of both committers.

    A subclass decides which steps to L{add}, and what a failed commit means.  It overrides
    L{_commit_failed}, and may override L{_when_ready} and L{_store_batch}.

    @ivar durable: the newest state known to be in the store.
    @ivar latest: the state after every accepted step.
    @ivar open_batch: the batch that accepts new steps.
    @ivar committing_batch: the batch being committed; C{None} between commits.
    @ivar delay_seconds: how long every batch collects steps, whatever its size; 0 lets
        L{BatchingPolicy} decide.
    @ivar read_refusal: why reads are refused, if they are.
    """

    _log = Logger()

    def __init__(
        self,
        store: IStore,
        reactor: IReactorTime,
        *,
        fatal: Callable[[Failure], None],
        time_ns: Callable[[], int] = time.time_ns,
        call_soon: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        """
        Make the committer of C{store}; C{start} opens the store.

        @param fatal: called when the process must end: the outcome of a commit is unknown,
            the store is damaged, or there is a bug.
        @param call_soon: makes a call in the next turn of the reactor, and returns a handle
            to cancel it.  The default is a timer, which costs 8 microseconds.
        """
        self._store = store
        self._reactor = reactor
        self._seconds = reactor.seconds
        self._fatal = fatal
        self._time_ns = time_ns
        self._policy = BatchingPolicy()
        self._term_cache = TermCache()
        self.counts = Counts()
        self.durable = self.latest = INITIAL
        self.open_batch = StepBatch(INITIAL)
        self.committing_batch: StepBatch | None = None
        self.delay_seconds = 0.0
        self._phase = BatchPhase.IDLE
        self._call_soon = call_soon or partial(reactor.callLater, 0)
        # The scheduled call of _commit_or_wait, if there is one.
        self._timer: Any = None
        self._drain_deferreds: list[Deferred[None]] = []
        self._commit_deferreds: list[Deferred[None]] = []
        # Why this process accepts no step: it is starting or stopping, or it has failed.
        self._own_refusal: Refusal | None = Refusal("the cursor is not read yet")
        self.read_refusal: Refusal | None = self._own_refusal

    # The life of a committer.

    def refuse_all(self, reason: str) -> None:
        self._own_refusal = self.read_refusal = Refusal(reason)

    async def stop(self) -> None:
        await self.drain()
        await self._store.close()

    def drain(self) -> Deferred[None]:
        """
        Accept no more steps, and commit those that were accepted.

        @return: fires when all waiters were called.
        """
        self._own_refusal = self._own_refusal or Refusal("the service is stopping")
        if self.open_batch.transitions:
            self.commit_open_batch()
        if self.is_idle:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drain_deferreds.append(drained)
        return drained

    def end_after_bug(self, failure: Failure) -> None:
        """
        Accept nothing more, and end the process: C{failure} is a bug.
        """
        self._own_refusal = self._own_refusal or Refusal("the service failed")
        self._fatal(failure)

    # One step.

    @property
    def is_idle(self) -> bool:
        """
        Return whether no step waits for a commit.
        """
        return self.committing_batch is None and not self.open_batch.transitions

    def restart_from(self, state: State) -> None:
        """
        Continue from the durable C{state} with an empty open batch.
        """
        self.durable = self.latest = state
        self.open_batch = StepBatch(state)

    def add(self, step: Step, waiter: Waiter | None) -> State:
        """
        Add C{step}, whose condition is met, to the open batch.

        @param waiter: gets the outcome after the commit; C{None} if the client gets its
            response before the commit.
        @return: the state after C{step}.
        """
        batch = self.open_batch
        if not batch.transitions:
            batch.began = self._seconds()
        transition = step.transition
        self.latest = state = follow(self.latest, transition, self._term_cache)
        batch.transitions += transition.code
        if step.key is not None:
            batch.keys[step.key] = pack_use(transition.code, state.revision, state.position)
        if waiter is not None:
            batch.waiting_requests.append((waiter, _APPLIED, state, step))
        if self._phase is _IDLE:
            # The batch is not committed before the next turn of the reactor.  Until then it
            # gets all other steps that arrive in this turn.
            self._wait_for_more()
        return state

    def deliver_when_durable(
        self,
        waiter: Waiter,
        step: Step,
        outcome: Outcome,
        state: State,
        batch: StepBatch | None,
    ) -> None:
        """
        Give C{waiter} the outcome of a step that did not move the cursor.

        @param batch: the batch that leads to C{state}: the waiter gets the outcome after
            the commit of this batch.  C{None} if C{state} is durable.
        """
        if batch is None:
            self.counts.count(outcome.value, step.transition.code)
            waiter.respond(outcome, state)
        else:
            batch.waiting_requests.append((waiter, outcome, state, step))

    def replay(
        self,
        waiter: Waiter,
        step: Step,
        used: Transition,
        state: State,
        batch: StepBatch | None = None,
    ) -> None:
        """
        Give C{waiter} the outcome of the first use of its step's key.

        @param used: the transition that the key was used for.
        @param state: the state after that transition.
        @param batch: as in L{deliver_when_durable}.
        """
        if used is step.transition:
            self.deliver_when_durable(waiter, step, Outcome.REPLAYED, state, batch)
        elif batch is None:
            waiter.fail(KeyReused(used))
        else:
            # If the batch fails, the key was not used, and the client may use it again.
            batch.waiting_requests.append((waiter, KeyReused(used), state, step))

    def find_key(self, key: bytes) -> tuple[Transition, State, StepBatch] | None:
        """
        Find an idempotency key in the batches that are not durable yet.

        @return: the transition that the key was used for, the state after that transition,
            and the transition's batch; C{None} if neither batch has the key.
        """
        for batch in (self.open_batch, self.committing_batch):
            if batch is not None and key in batch.keys:
                used, revision, position = unpack_use(batch.keys[key])
                return used, cached_state_at(revision, position), batch
        return None

    # One commit.

    def _wait_for_more(self) -> None:
        self._phase = BatchPhase.WAITING
        if self.delay_seconds:
            self._timer = self._reactor.callLater(self.delay_seconds, self._commit_or_wait)
        else:
            self._timer = self._call_soon(self._commit_or_wait)

    def _commit_or_wait(self) -> None:
        """
        Commit the open batch, or let it wait for one more turn of the reactor.

        The batch waits for turns and not for a timer: timers have a resolution of one
        millisecond, and a commit on a fast disk takes less.
        """
        self._timer = None
        batch, now = self.open_batch, self._seconds()
        steps = len(batch.transitions)
        quiet = steps == batch.last_step_count
        if quiet:
            batch.idle_seconds += now - batch.last_checked_at
        batch.last_step_count, batch.last_checked_at = steps, now
        if self.delay_seconds or self._policy.is_ready(
            steps, quiet=quiet, idle=batch.idle_seconds, waited=now - batch.began
        ):
            self.commit_open_batch()
        else:
            if quiet:
                # Clients on this machine may need this processor to send their next steps.
                os.sched_yield()
            self._timer = self._call_soon(self._commit_or_wait)

    def commit_open_batch(self) -> None:
        """
        Commit the open batch without waiting for more steps.
        """
        if self._phase in (BatchPhase.READY, BatchPhase.COLLECTING):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._phase = BatchPhase.READY
        self._when_ready()

    def _when_ready(self) -> None:
        """
        Call L{write}.  On etcd, the node waits for its turn first.
        """
        self.write()

    def _store_batch(self, batch: Batch) -> Deferred[None]:
        return self._store.commit(batch)

    def _commit_failed(self, batch: StepBatch, failure: Failure) -> None:
        """
        Handle the failed commit of C{batch}.

        A subclass must also handle the open batch, because its steps were applied to the
        state after C{batch}.
        """
        raise NotImplementedError

    def write(self) -> None:
        """
        Write the open batch to the store, and call its waiters when it is durable.

        The open batch may be empty: on etcd, another node may have moved the cursor before
        this node's turn, so that no step's condition is met any more.
        """
        if not self.open_batch.transitions:
            self._phase = BatchPhase.IDLE
            self._continue_after_commit()
            return
        batch, after = self.open_batch, self.latest
        self.committing_batch, self.open_batch = batch, StepBatch(after)
        self._phase = BatchPhase.COLLECTING
        started = self._seconds()

        def succeeded(_: None) -> None:
            steps, seconds = len(batch.transitions), self._seconds() - started
            self._policy.record_commit(steps, seconds)
            self.counts.committed(steps, seconds)
            self.committing_batch, self._phase = None, BatchPhase.IDLE
            self.durable = after
            self._deliver(batch)
            self._continue_after_commit()

        def failed(failure: Failure) -> None:
            self.committing_batch, self._phase = None, BatchPhase.IDLE
            self._commit_failed(batch, failure)
            self._continue_after_commit()

        self._store_batch(
            Batch(
                first_revision=batch.before.revision + 1,
                start_position=batch.before.position,
                transitions=bytes(batch.transitions),
                position=after.position,
                time_ns=self._time_ns(),
                keys=batch.keys,
            )
        ).addCallbacks(succeeded, failed).addErrback(self.end_after_bug)

    def _continue_after_commit(self) -> None:
        ended, self._commit_deferreds = self._commit_deferreds, []
        for deferred in ended:
            deferred.callback(None)
        if self.open_batch.transitions and self._drain_deferreds:
            self.commit_open_batch()
        elif self.open_batch.transitions and self._phase is BatchPhase.IDLE:
            # These steps arrived during the commit.  If a waiter has just added another
            # step, the phase is WAITING already.
            self.open_batch.last_step_count = len(self.open_batch.transitions)
            self.open_batch.last_checked_at = self._seconds()
            self._wait_for_more()
        if self.is_idle:
            drained, self._drain_deferreds = self._drain_deferreds, []
            for deferred in drained:
                deferred.callback(None)

    def roll_back(
        self, batch: StepBatch, error: Exception, open_batch_error: Exception
    ) -> None:
        """
        Return to the durable state, and make all waiting requests fail.

        @param error: the error for the waiters of C{batch}, whose commit failed.
        @param open_batch_error: the error for the waiters of the open batch, which was
            never sent to the store.
        """
        open_batch = self.open_batch
        self.restart_from(self.durable)
        self._deliver(batch, error)
        self._deliver(open_batch, open_batch_error)

    def _deliver(self, batch: StepBatch, error: Exception | None = None) -> None:
        """
        Call the waiters of C{batch} with their outcomes, or with C{error}.
        """
        failed = UNKNOWN if isinstance(error, OutcomeUnknown) else NOT_TAKEN
        self.counts.count(APPLIED if error is None else failed, batch.transitions)
        for waiter, outcome, state, step in batch.waiting_requests:
            if isinstance(outcome, Outcome) and outcome is not _APPLIED:
                # This step did not move the cursor, so it was not counted above.
                word = outcome.value if error is None else failed
                self.counts.count(word, step.transition.code)
            try:
                if error is not None:
                    waiter.fail(error)
                elif isinstance(outcome, KeyReused):
                    waiter.fail(outcome)
                else:
                    waiter.respond(outcome, state)
            except Exception:  # noqa: BLE001 the other waiters get their outcomes
                self._log.failure("a waiter failed")

    def when_commit_ends(self) -> Deferred[None]:
        """
        Return a Deferred that fires at the end of the commit in progress, or of the next.
        """
        ended: Deferred[None] = Deferred()
        self._commit_deferreds.append(ended)
        return ended
