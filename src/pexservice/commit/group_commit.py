"""
Group commit: transitions that arrive together share a commit.

Two states are kept.  The I{latest} is where the cursor will be when all that was
applied is on disk; transitions are applied to it as they arrive.  The I{durable} is
what the disk has.  What lies between them is in at most two batches: one I{under way},
being committed, and one I{open}, which gathers.

::

    apply -> open batch -> under way -> durable, then the answers, in order
                 ^             |
                 |             +-- failed: the owner says what that means
                 +-- gathers while a commit is under way, or for a short wait

The owner of the batches decides whether a move may be made, what a failed commit means,
and what readers are told; see L{pexservice.commit.committer} and
L{pexservice.commit.optimistic}.

All times are the reactor's, which is monotonic on both of our reactors.  Another one that
C{twistd --reactor} names goes by the wall clock, and after a step of that the policy takes
a commit for longer or shorter than it is, for about a hundred commits: batches wait for
L{batching_policy.LONGEST_WAIT} at most, or do not wait at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import Enum, auto

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.batch import OpenBatch
from pexservice.commit.batching_policy import BatchingPolicy
from pexservice.commit.counters import APPLIED, NOT_TAKEN, UNKNOWN, Counts
from pexservice.commit.interface import IBatchOwner
from pexservice.commit.requests import KeyReused, Outcome, Step, Waiter
from pexservice.core.cursor import INITIAL, State, Transition, follow
from pexservice.core.sequence import TermCache
from pexservice.stores.interface import OutcomeUnknown


class Phase(Enum):
    """
    The phase that the open batch is in.
    """

    #: No transition has arrived, or the last commit's answers are still being given.
    RESTING = auto()
    #: The batch waits for company.
    GATHERING = auto()
    #: The owner was told that the batch is ready.
    READY = auto()
    #: Another batch is under way; the open one gathers meanwhile.
    COMMITTING = auto()


# A name of this module costs a third of a look-up in an enumeration.
_APPLIED, _RESTING = Outcome.APPLIED, Phase.RESTING


class GroupCommit:
    """
    The batches of one committer.

    @ivar durable: the state that the disk has.
    @ivar latest: the state when all that was applied is durable.
    @ivar open: the batch that gathers.
    @ivar under_way: the batch that is being committed, if one is.
    @ivar counts: the counters of transitions by outcome, and of commits.
    @ivar delay: seconds that a batch gathers before it is ready, whatever its size; 0
        lets the policy decide.
    """

    _log = Logger()

    def __init__(
        self,
        owner: IBatchOwner,
        reactor: IReactorTime,
        *,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._owner = owner
        self._reactor = reactor
        self._seconds = reactor.seconds
        self._time_ns = time_ns
        self._policy = BatchingPolicy()
        self._term_cache = TermCache()
        self.counts = Counts()
        self.durable = self.latest = INITIAL
        self.open = OpenBatch(INITIAL)
        self.under_way: OpenBatch | None = None
        self.delay = 0.0
        self._phase = Phase.RESTING
        self._timer: IDelayedCall | None = None
        self._draining: list[Deferred[None]] = []
        self._settling: list[Deferred[None]] = []

    def restart(self, state: State) -> None:
        """
        Go on from C{state}, with nothing in the open batch.
        """
        self.durable = self.latest = state
        self.open = OpenBatch(state)

    @property
    def is_idle(self) -> bool:
        """
        Return whether no transition waits for a commit, so the cursor stays where it is.
        """
        return self.under_way is None and not self.open.transitions

    def apply(self, step: Step, waiter: Waiter | None) -> State:
        """
        Add C{step}, whose condition was checked, to the open batch, and have it committed.

        @param waiter: told the outcome when it is durable; C{None} if the caller is
            answered without waiting for the commit.
        @return: the state after C{step}.
        """
        batch = self.open
        if not batch.transitions:
            batch.began = self._seconds()
        transition = step.transition
        self.latest = state = follow(self.latest, transition, self._term_cache)
        batch.transitions += transition.code
        if step.key is not None:
            batch.keys[step.key] = (transition, state)
        if waiter is not None:
            batch.answers.append((waiter, _APPLIED, state, step))
        if self._phase is _RESTING:
            # The batch is considered after this turn of the reactor at the soonest, when
            # all moves that arrived with this one are in it.
            self._gather()
        return state

    def tell(
        self,
        waiter: Waiter,
        step: Step,
        outcome: Outcome,
        state: State,
        batch: OpenBatch | None,
    ) -> None:
        """
        Tell C{waiter} the outcome of its C{step}, which adds no transition to a batch.

        @param batch: the batch that leads to C{state}, and has to be durable
            before the waiter is told; C{None} if the state is durable.
        """
        if batch is None:
            self.counts.count(outcome.value, step.transition.code)
            waiter.respond(outcome, state)
        else:
            batch.unmoved.append((outcome, step.transition))
            batch.answers.append((waiter, outcome, state, step))

    def replay(
        self,
        waiter: Waiter,
        step: Step,
        used: Transition,
        state: State,
        batch: OpenBatch | None = None,
    ) -> None:
        """
        Tell C{waiter} the outcome of the first use of its C{step}'s key.

        @param used: the transition that the key was used for.
        @param state: the state after that transition.
        @param batch: as in L{tell}.
        """
        if used is step.transition:
            self.tell(waiter, step, Outcome.REPLAYED, state, batch)
        else:
            waiter.fail(KeyReused(used))

    def find(self, key: bytes) -> tuple[Transition, State, OpenBatch] | None:
        """
        Find the use of an idempotency key in the batches that are not durable yet.

        @return: the transition that the key was used for, the state after that transition,
            and its batch; C{None} if neither batch has the key.
        """
        for batch in (self.under_way, self.open):
            if batch is not None and key in batch.keys:
                return (*batch.keys[key], batch)
        return None

    def _gather(self) -> None:
        self._phase = Phase.GATHERING
        self._timer = self._reactor.callLater(self.delay, self._consider)

    def _consider(self) -> None:
        """
        Have the open batch committed, or wait one more turn for company.

        The wait is a turn, not a time: timers are a millisecond coarse, and a commit
        takes a fifth of that.
        """
        self._timer = None
        batch, now = self.open, self._seconds()
        waiting = len(batch.transitions)
        quiet = waiting == batch.considered
        if quiet:
            batch.idle += now - batch.considered_at
        batch.considered, batch.considered_at = waiting, now
        if self.delay or self._policy.ready(
            waiting, quiet=quiet, idle=batch.idle, waited=now - batch.began
        ):
            self.hurry()
        else:
            if quiet:
                # The callers that are waited for may be waiting for this very processor.
                os.sched_yield()
            self._timer = self._reactor.callLater(0, self._consider)

    def hurry(self) -> None:
        """
        Have the open batch committed without waiting for company.
        """
        if self._phase in (Phase.READY, Phase.COMMITTING):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._phase = Phase.READY
        self._owner.ready()

    def commit(self) -> None:
        """
        Commit the open batch, if it has transitions; then call its waiters.
        """
        if not self.open.transitions:
            self._phase = Phase.RESTING
            self._go_on(arrived=False)
            return
        batch, after = self.open, self.latest
        self.under_way, self.open = batch, OpenBatch(after)
        self._phase = Phase.COMMITTING
        started = self._seconds()

        def taken(_: None) -> None:
            size, seconds = len(batch.transitions), self._seconds() - started
            self._policy.committed(size, seconds)
            self.counts.committed(size, seconds)
            self.under_way, self._phase = None, Phase.RESTING
            self.durable = after
            arrived = bool(self.open.transitions)
            self.answer(batch)
            self._go_on(arrived=arrived)

        def failed(failure: Failure) -> None:
            self.under_way, self._phase = None, Phase.RESTING
            self._owner.failed(batch, failure)
            self._go_on(arrived=False)

        committed = self._owner.commit(batch.to_store(after, self._time_ns()))
        committed.addCallbacks(taken, failed).addErrback(self._owner.crashed)

    def _go_on(self, *, arrived: bool) -> None:
        """
        Go on with the open batch, when a commit has ended or was not needed.

        @param arrived: whether transitions were waiting when the last commit ended.  The
            transitions that the commit's answers brought about, as the next request of a
            pipeline does, wait for the next turn: a commit within the answers of another
            would go as deep as the pipeline is long.
        """
        settling, self._settling = self._settling, []
        for each in settling:
            each.callback(None)
        if self.open.transitions and self._draining:
            self.hurry()
        elif arrived and self._phase is Phase.RESTING:
            self.open.considered = len(self.open.transitions)
            self.open.considered_at = self._seconds()
            self._gather()
        if self.is_idle:
            draining, self._draining = self._draining, []
            for each in draining:
                each.callback(None)

    def undo(self, batch: OpenBatch, error: Exception, behind: Exception) -> None:
        """
        Go back to the durable state.

        @param error: told to the waiters in C{batch}, which failed.
        @param behind: told to the waiters in the open batch, which was built on C{batch}.
        """
        built_on_it = self.open
        self.restart(self.durable)
        self.answer(batch, error)
        self.answer(built_on_it, behind)

    def answer(self, batch: OpenBatch, error: Exception | None = None) -> None:
        """
        Call the waiters of C{batch} with their outcomes, or with C{error}.
        """
        failed = UNKNOWN if isinstance(error, OutcomeUnknown) else NOT_TAKEN
        self.counts.count(APPLIED if error is None else failed, batch.transitions)
        for unmoved, transition in batch.unmoved:
            self.counts.count(unmoved.value if error is None else failed, transition.code)
        for waiter, outcome, state, _ in batch.answers:
            try:
                if error is None:
                    waiter.respond(outcome, state)
                else:
                    waiter.fail(error)
            except Exception:  # noqa: BLE001 one waiter's fault is not the others'
                self._log.failure("a waiter failed")

    def commit_ended(self) -> Deferred[None]:
        """
        Wait until the commit that is under way, or else the next one, has ended.

        @return: fires when that commit has ended.
        """
        settling: Deferred[None] = Deferred()
        self._settling.append(settling)
        return settling

    def drain(self) -> Deferred[None]:
        """
        Have all moves that were applied committed.

        @return: fires when all waiters are answered.
        """
        if self.open.transitions:
            self.hurry()
        if self.is_idle:
            return succeed(None)
        draining: Deferred[None] = Deferred()
        self._draining.append(draining)
        return draining
