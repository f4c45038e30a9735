"""
Group commit: submitted transitions in, durable outcomes out.

Two states are kept.  The I{latest} is where the cursor will be when all that was
submitted is on disk; transitions are applied to it as they arrive.  The I{durable}
is what the disk has; readers see that one, so nothing is read that a crash could
take back.  What lies between them is in at most two batches: one I{under way},
being committed, and one I{open}, gathering.

::

    submit -> open batch -> under way -> durable, then the answers, in order
                  ^              |
                  |              +-- not taken: both batches never happened,
                  |              |   the latest state goes back to the durable
                  |              +-- unknown: nothing more is taken, the process ends
                  +-- gathers while a commit is under way, or for a short wait

Who only looks (an unmet precondition, a repeated key) while others are waiting is
told about a state that is not durable yet, and so waits in the same batch.

With synchronous commit off the answer goes out at once, readers see the latest
state, and the commit follows at most L{LONGEST_DELAY} later.  While one takes long, at
most L{MOST_ANSWERED_FIRST} transitions are answered ahead of the next.  A store that
does not take a batch ends that until it takes one again: answers that were given are
lost then, and no more of them are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.batch import OpenBatch
from pexservice.commit.batching_policy import BatchingPolicy
from pexservice.commit.counters import APPLIED, NOT_TAKEN, UNKNOWN, Counts
from pexservice.commit.requests import KeyReused, Move, Outcome, Result, Waiter, fires
from pexservice.core.cursor import INITIAL, State, Transition, follow, state_at
from pexservice.core.sequence import Neighbours
from pexservice.stores.interface import (
    IStore,
    NotTaken,
    OutcomeUnknown,
    Remembered,
    Row,
)

#: With synchronous commit off, how much later a commit may follow.  Seconds.
LONGEST_DELAY = 0.01

#: With synchronous commit off, how many transitions of one batch are answered before it
#: is committed.  Those after them wait for it, so a disk that hangs holds callers up
#: rather than letting ever more of what was answered be lost with the process.  Four
#: times what arrives within L{LONGEST_DELAY} at 100,000 a second.
MOST_ANSWERED_FIRST = 4096


class Committer:
    """
    The one way to the store.

    @ivar durable: what the disk has.
    @ivar latest: what it will have when all that was submitted is taken.
    @ivar counts: what came of everything.
    """

    _log = Logger()

    #: What L{move} is given for a read of the cursor, where the L{visible} state is
    #: not the answer.
    read_move: Move | None = None

    def __init__(
        self,
        store: IStore,
        reactor: IReactorTime,
        *,
        synchronous: bool = True,
        fatal: Callable[[Failure], None],
        monotonic: Callable[[], float] = time.perf_counter,
        time_ns: Callable[[], int] = time.time_ns,
        give_way: Callable[[], None] = os.sched_yield,
    ) -> None:
        """
        @param synchronous: commit before the answer.
        @param fatal: called when the outcome of a commit is unknown; must end the
            process soon.
        """
        self._store = store
        self._reactor = reactor
        self._synchronous = synchronous
        self._fatal = fatal
        self._monotonic = monotonic
        self._time_ns = time_ns
        self._give_way = give_way
        self._policy = BatchingPolicy()
        self.counts = Counts()
        self._neighbours = Neighbours()
        self.durable = self.latest = INITIAL
        self._open = OpenBatch(INITIAL)
        self._under_way: OpenBatch | None = None
        self._consideration: IDelayedCall | None = None
        self._refusal: NotTaken | None = NotTaken("the cursor is not read yet")
        # Off only while asked for and while the store takes what it is given.
        self._answer_first = not synchronous
        self._look_ups = DeferredLock()
        self._drained: list[Deferred[None]] = []
        self._settling: list[Deferred[None]] = []
        self._read = False

    async def start(self) -> None:
        """
        Open the store and take up where it is.

        @raise StoreUnusable: or one of its kinds.
        """
        revision, position = await self._store.open()
        self.durable = self.latest = state_at(revision, position)
        self._open = OpenBatch(self.latest)
        self._read = True
        self._refusal = None

    async def stop(self) -> None:
        """
        Commit what was submitted, refuse the rest, close the store.
        """
        await self.drain()
        await self._store.close()

    def drain(self) -> Deferred[None]:
        """
        Take no more, and fire when all that was taken is answered.
        """
        self._refusal = self._refusal or NotTaken("the service is stopping")
        if self._under_way is None and self._open.transitions:
            self._commit()
        if self._under_way is None:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        return drained

    @property
    def visible(self) -> State:
        """
        The state that readers are shown.
        """
        return self.latest if self._answer_first else self.durable

    def read_current(self) -> Deferred[State]:
        """
        @return: fires with the state to show to who asks now.
        @raise NotTaken: nobody can say.
        """
        return succeed(self.visible)

    def read_durable(self) -> Deferred[State]:
        """
        As L{read_current}; the state that the L{history} leads to.
        """
        return succeed(self.durable)

    def settled(self) -> Deferred[None]:
        """
        @return: fires when the commit that is under way now, if any, has ended.
        """
        if self._under_way is None:
            return succeed(None)
        settled: Deferred[None] = Deferred()
        self._settling.append(settled)
        return settled

    @property
    def unread(self) -> NotTaken | None:
        """
        Why there is no state to show, if there is none.
        """
        return None if self._read else self._refusal

    def unusable(self, reason: str) -> None:
        """
        The store could not be opened, for C{reason}.
        """
        self._refusal = NotTaken(reason)

    @property
    def refusal(self) -> NotTaken | None:
        """
        Why nothing is taken now, if so.
        """
        return self._refusal

    def history(self, before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        See L{IStore.history}.  Nothing beyond the durable state.
        """
        newest = self.durable.revision + 1
        return self._store.history(newest if before is None else min(before, newest), limit)

    def submit(self, move: Move) -> Deferred[Outcome]:
        """
        @return: fires when the outcome is durable.  Who cancels it is not told,
            and takes nothing back.
        @raise NotTaken: it never happened.
        @raise OutcomeUnknown: it may have happened.
        @raise KeyReused: the key was used for another transition.
        """
        if self._refusal is not None:
            return self._refused(move, self._refusal)
        if move.key is not None:
            # One look-up at a time: of two uses of a key the second finds the
            # first one, in a batch or in the store, wherever it is by then.
            locked: Deferred[Outcome] = self._look_ups.run(
                self._look_up, move, move.key
            ).addCallback(_unwrap)
            return locked
        deferred: Deferred[Outcome] = Deferred()
        self.move(move, fires(deferred))
        return deferred

    def _look_up(self, move: Move, key: bytes) -> Deferred[tuple[Deferred[Outcome]]]:
        """
        @return: fires when the look-up is done, with the deferred outcome in a
            tuple, so that the next look-up does not wait for the commit.
        """
        if self._refusal is not None:
            # While this one waited the store failed, or is about to be closed.
            return succeed((self._refused(move, self._refusal),))
        for batch in filter(None, (self._under_way, self._open)):
            if key in batch.keys:
                used, state = batch.keys[key]
                return succeed((self._replay(move, used, state, batch),))

        def found(remembered: Remembered | None) -> tuple[Deferred[Outcome]]:
            if remembered is None:
                deferred: Deferred[Outcome] = Deferred()
                self.move(move, fires(deferred))
                return (deferred,)
            state = state_at(remembered.revision, remembered.position)
            return (self._replay(move, remembered.transition, state, None),)

        return self._store.recall(key).addCallback(found)

    def _refused(self, move: Move, refusal: NotTaken) -> Deferred[Outcome]:
        self.counts.came(NOT_TAKEN, move.transition.value)
        return fail(refusal)

    def _replay(
        self, move: Move, used: Transition, state: State, batch: OpenBatch | None
    ) -> Deferred[Outcome]:
        if used is not move.transition:
            return fail(KeyReused(used))
        deferred: Deferred[Outcome] = Deferred()
        self._tell(fires(deferred), move, Outcome(Result.REPLAYED, state), batch)
        return deferred

    def move(self, move: Move, waiter: Waiter) -> None:
        """
        What L{submit} does, without a look at the key and without a Deferred.
        """
        if self._refusal is not None:
            self.counts.came(NOT_TAKEN, move.transition.value)
            waiter(self._refusal)
            return
        if move.condition is not None and not move.condition(self.latest):
            self._unmet(move, waiter)
            return
        gathered = self._open
        if not gathered.transitions:
            gathered.since = self._monotonic()
        transition = move.transition
        self.latest = state = follow(self.latest, transition, self._neighbours)
        gathered.transitions += transition.value
        if move.key is not None:
            gathered.keys[move.key] = (transition, state)
        if self._answer_first and len(gathered.transitions) <= MOST_ANSWERED_FIRST:
            waiter(Outcome(Result.APPLIED, state))
        else:
            gathered.answers.append((waiter, Outcome(Result.APPLIED, state), move))
        if self._under_way is None and self._consideration is None:
            # At the end of this turn of the reactor, when all that arrived with
            # this one is here.
            self._consider_in(LONGEST_DELAY if self._answer_first else 0)

    def _unmet(self, move: Move, waiter: Waiter) -> None:
        """
        The latest state does not meet C{move}'s condition.
        """
        batch = self._open if self._open.transitions else self._under_way
        self._tell(waiter, move, Outcome(Result.PRECONDITION_FAILED, self.latest), batch)

    def _tell(
        self, waiter: Waiter, move: Move, outcome: Outcome, batch: OpenBatch | None
    ) -> None:
        """
        Tell C{waiter} the outcome of its C{move} when C{batch} is durable.
        """
        if batch is None or self._answer_first:
            self.counts.came(outcome.result.word, move.transition.value)
            waiter(outcome)
        else:
            batch.told.append((outcome.result, move.transition))
            batch.answers.append((waiter, outcome, move))

    def _consider_in(self, seconds: float) -> None:
        self._consideration = self._reactor.callLater(seconds, self._consider)

    def _consider(self) -> None:
        """
        Commit the open batch, or wait one more turn for company.

        A turn, not a time: timers are a millisecond coarse, a commit takes a fifth
        of that.
        """
        self._consideration = None
        if self._under_way is not None or not self._open.transitions:
            return
        gathered, now = self._open, self._monotonic()
        waiting = len(gathered.transitions)
        quiet = waiting == gathered.considered
        if quiet:
            gathered.idle += now - gathered.considered_at
        gathered.considered, gathered.considered_at = waiting, now
        if self._answer_first or self._policy.ready(
            waiting, quiet=quiet, idle=gathered.idle, waited=now - gathered.since
        ):
            self._commit()
        else:
            if quiet:
                # Who is waited for may be waiting for this very processor.
                self._give_way()
            self._consider_in(0)

    def _commit(self) -> None:
        if self._consideration is not None:
            self._consideration.cancel()
            self._consideration = None
        gathered, after = self._open, self.latest
        self._under_way, self._open = gathered, OpenBatch(after)
        started = self._monotonic()

        def taken(_: None) -> bool:
            size, seconds = len(gathered.transitions), self._monotonic() - started
            self._policy.committed(size, seconds)
            self.counts.committed(size, seconds)
            self._under_way = None
            self.durable = after
            self._answer_first = not self._synchronous
            arrived = bool(self._open.transitions)
            self._answer(gathered)
            return arrived

        def failed(failure: Failure) -> bool:
            self._under_way = None
            return self._failed(gathered, failure)

        committed = self._store.commit(gathered.batch(after, self._time_ns()))
        committed.addCallbacks(taken, failed).addCallback(self._go_on)
        committed.addErrback(self._give_up_on_ourselves)

    def _failed(self, gathered: OpenBatch, failure: Failure) -> bool:
        """
        The commit of C{gathered} failed.

        @return: whether there is something to commit now.
        """
        if isinstance(failure.value, NotTaken):
            self._undo(gathered, failure.value)
        else:
            self._give_up(gathered, failure)
        return False

    def _go_on(self, arrived: bool) -> None:  # noqa: FBT001 the callback's one argument
        """
        @param arrived: whether there were transitions waiting when the last commit
            ended.  Those that its answers brought about, as the next request of a
            pipeline, wait for the next turn, or a pipeline would nest commits.
        """
        settling, self._settling = self._settling, []
        for each in settling:
            each.callback(None)
        if self._open.transitions and self._drained:
            self._commit()
        elif arrived and self._consideration is None:
            self._open.considered = len(self._open.transitions)
            self._open.considered_at = self._monotonic()
            self._consider_in(LONGEST_DELAY if self._answer_first else 0)
        if self._under_way is None and not self._open.transitions:
            drained, self._drained = self._drained, []
            for each in drained:
                each.callback(None)

    def _undo(self, gathered: OpenBatch, refusal: Exception) -> None:
        """
        Neither the batch that was not taken nor what was built on it happened.
        """
        lost = self.latest.revision - self.durable.revision
        if self._answer_first:
            waiting = len(gathered.answers) + len(self._open.answers)
            self._log.critical(
                "{refusal}: {lost} transitions that were answered are lost;"
                " answers wait for the disk until it takes them again",
                refusal=refusal,
                lost=lost - waiting,
            )
        else:
            self._log.error(
                "{refusal}: {lost} transitions were refused", refusal=refusal, lost=lost
            )
        self._answer_first = False
        built_on_it, self._open = self._open, OpenBatch(self.durable)
        self.latest = self.durable
        for batch in (gathered, built_on_it):
            self._answer(batch, refusal)

    def _give_up(self, gathered: OpenBatch, failure: Failure) -> None:
        """
        Nobody knows whether the disk has the batch; only reading it anew can tell.
        """
        self._refusal = NotTaken("the store failed")
        built_on_it, self._open = self._open, OpenBatch(self.durable)
        self._answer_first = False
        self._fatal(failure)
        self._answer(
            gathered, OutcomeUnknown("the store failed while the step was under way")
        )
        self._answer(built_on_it, self._refusal)

    def _give_up_on_ourselves(self, failure: Failure) -> None:
        self._refusal = self._refusal or NotTaken("the service failed")
        self._fatal(failure)

    def _answer(self, gathered: OpenBatch, error: Exception | None = None) -> None:
        self._count(gathered, error)
        for waiter, outcome, _ in gathered.answers:
            try:
                waiter(error or outcome)
            except Exception:  # noqa: BLE001 one waiter's fault is not the others'
                self._log.failure("a waiter failed")

    def _count(self, gathered: OpenBatch, error: Exception | None) -> None:
        failed = UNKNOWN if isinstance(error, OutcomeUnknown) else NOT_TAKEN
        self.counts.came(APPLIED if error is None else failed, gathered.transitions)
        for result, transition in gathered.told:
            self.counts.came(result.word if error is None else failed, transition.value)


def _unwrap(wrapped: Sequence[Deferred[Outcome]]) -> Deferred[Outcome]:
    return wrapped[0]
