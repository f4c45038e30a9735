"""
The committer of a store that no other process writes to.

Readers are shown the durable state, so nothing is read that a crash could take back.  An
outcome that moves nothing (an unmet precondition, a repeated key) may be seen in a state
that is not durable yet; then the answer waits in the batch that leads to that state.

A batch that the store surely did not take never happened, and neither did the transitions
built on it.  When the outcome of a batch is unknown, nothing more is taken and the
process ends, for only opening the store again tells.

With synchronous commit off the answer goes out at once, readers see the latest state, and
the commit follows at most L{LONGEST_DELAY} later.  While a commit takes long, at most
L{MOST_ANSWERED_FIRST} transitions are answered ahead of the next commit.  When the store
does not take a batch, answers wait for the disk until it takes one again: the transitions
that were answered before are lost, and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.batch import OpenBatch
from pexservice.commit.counters import NOT_TAKEN
from pexservice.commit.group_commit import GroupCommit
from pexservice.commit.interface import IBatchOwner, ICommitter
from pexservice.commit.refusal_log import RefusalLog
from pexservice.commit.requests import Outcome, Step, Waiter
from pexservice.core.cursor import State, state_at
from pexservice.stores.interface import (
    Batch,
    IOwnStore,
    NotTaken,
    OutcomeUnknown,
    Row,
    StoreDamaged,
)

#: With synchronous commit off, how much later a commit may follow.  Seconds.
LONGEST_DELAY = 0.01

#: With synchronous commit off, how many transitions of one batch are answered before it
#: is committed.  Later ones wait for the commit, so a disk that hangs holds callers up
#: rather than letting ever more answered transitions be lost with the process.  Four
#: times the transitions that arrive within L{LONGEST_DELAY} at 100,000 a second.
MOST_ANSWERED_FIRST = 4096

_DAMAGED = "the store is damaged"

# Reading a global is three times faster than an Enum attribute.
_READ = Outcome.READ

#: The states that keys led to which were repeated lately.  A client that got no answer
#: sends a key again and again, and to make a state far along the sequence takes
#: milliseconds.
_replayed = lru_cache(maxsize=8)(state_at)


@implementer(ICommitter, IBatchOwner)
class Committer:
    """
    The committer of a store of this process alone, and the only way to it.
    """

    _log = Logger()

    def __init__(
        self,
        store: IOwnStore,
        reactor: IReactorTime,
        *,
        synchronous: bool = True,
        fatal: Callable[[Failure], None],
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """
        Make the committer of C{store}; L{start} opens the store.

        @param synchronous: commit before the answer.
        @param fatal: called when the outcome of a commit is unknown; must end the
            process soon.
        """
        self._store = store
        self._synchronous = synchronous
        self._fatal = fatal
        self._group = GroupCommit(self, reactor, time_ns=time_ns)
        self.counts = self._group.counts
        # Damage that a read found, for a commit that is still to come.
        self._damage: StoreDamaged | None = None
        self._refusal: NotTaken | None = NotTaken("the cursor is not read yet")
        self.unread: NotTaken | None = self._refusal
        # On only while synchronous commit is off and the store takes its batches.
        self._answers_first = False
        self._answer_first(on=not synchronous)
        self._refusal_log = RefusalLog(reactor.seconds)

    def _answer_first(self, *, on: bool) -> None:
        self._answers_first = on
        self._group.delay = LONGEST_DELAY if on else 0.0

    async def start(self) -> None:
        """
        Open the store, and begin where its cursor is.
        """
        self._group.restart(state_at(*await self._store.open()))
        self._refusal = self.unread = None

    def unusable(self, reason: str) -> None:
        """
        Refuse all requests, for C{reason}.
        """
        self._refusal = self.unread = NotTaken(reason)

    async def stop(self) -> None:
        """
        Commit the moves that were taken, refuse the rest, and close the store.
        """
        await self.drain()
        await self._store.close()

    def drain(self) -> Deferred[None]:
        """
        Take no more moves, and have all that were taken answered.
        """
        self._refusal = self._refusal or NotTaken("the service is stopping")
        return self._group.drain()

    def settled(self) -> Deferred[None]:
        """
        Wait for the commit that is under way, if any.
        """
        if self._group.under_way is None:
            return succeed(None)
        return self._group.commit_ended()

    @property
    def durable(self) -> State:
        """
        Return the state that the disk has.
        """
        return self._group.durable

    @property
    def visible(self) -> State:
        """
        Return the state that readers are shown.
        """
        return self._group.latest if self._answers_first else self._group.durable

    @property
    def refusal(self) -> NotTaken | None:
        """
        Return why no move is taken now, or C{None} if moves are.
        """
        return self._refusal or self._store.shortage()

    def read_durable(self) -> Deferred[State]:
        """
        Return the durable state.
        """
        return succeed(self.durable)

    def history(self, before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        Read a page of the history, with nothing beyond the durable state.
        """
        newest = self.durable.revision + 1
        before = newest if before is None else min(before, newest)

        def failed(failure: Failure) -> Failure:
            return Failure(self._unreadable(cast(Exception, failure.value)))

        return self._store.history(before, limit).addErrback(failed)

    def read(self, waiter: Waiter) -> None:
        """
        Show the durable state; with synchronous commit off, the latest one.
        """
        if self.unread is None:
            group = self._group
            waiter.respond(_READ, group.latest if self._answers_first else group.durable)
        else:
            waiter.fail(self.unread)

    def step(self, step: Step, waiter: Waiter) -> None:
        """
        Make C{step}, unless its key was used before or its condition is not met.
        """
        group = self._group
        if self._refusal is not None:
            self.counts.count(NOT_TAKEN, step.transition.code)
            waiter.fail(self._refusal)
        elif step.key is not None and self._was_used(step.key, step, waiter):
            return
        elif step.condition is not None and not step.condition(group.latest):
            batch = group.open if group.open.transitions else group.under_way
            outcome, state = Outcome.PRECONDITION_FAILED, group.latest
            group.tell(waiter, step, outcome, state, self._awaited(batch))
        elif self._answers_first and len(group.open.transitions) < MOST_ANSWERED_FIRST:
            waiter.respond(Outcome.APPLIED, group.apply(step, None))
        else:
            group.apply(step, waiter)

    def _was_used(self, key: bytes, step: Step, waiter: Waiter) -> bool:
        """
        Return whether the C{key} of C{step} was used before, or cannot be looked up.

        In both cases C{waiter} is told.  Nothing comes between this look-up and the move:
        of two uses of a key the second finds the first, in a batch or in the store.
        """
        found = self._group.find(key)
        if found is not None:
            used, state, batch = found
            self._group.replay(waiter, step, used, state, self._awaited(batch))
            return True
        try:
            first = self._store.look_up(key)
        except Exception as error:  # noqa: BLE001 the caller is told
            waiter.fail(self._unreadable(error))
            return True
        if first is None:
            return False
        state = _replayed(first.revision, first.position)
        self._group.replay(waiter, step, first.transition, state)
        return True

    def _awaited(self, batch: OpenBatch | None) -> OpenBatch | None:
        return None if self._answers_first else batch

    # The owner of the batches; see IBatchOwner.

    def ready(self) -> None:
        """
        Commit at once: there is no other node whose turn it could be.
        """
        self._group.commit()

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Commit C{batch} to the disk.
        """
        if self._damage is not None:
            return fail(self._damage)
        return self._store.commit(batch).addCallback(self._taken)

    def _taken(self, _: None) -> None:
        self._answer_first(on=not self._synchronous)

    def failed(self, batch: OpenBatch, failure: Failure) -> None:
        """
        Undo a batch that surely did not happen; end the process when that is not sure.
        """
        if isinstance(failure.value, NotTaken):
            self._undo(batch, failure.value)
        else:
            self._give_up(batch, failure)

    def _undo(self, batch: OpenBatch, refusal: NotTaken) -> None:
        group = self._group
        lost = group.latest.revision - group.durable.revision
        if self._answers_first:
            waiting = len(batch.answers) + len(group.open.answers)
            self._log.critical(
                "{refusal}: {lost} transitions that were answered are lost;"
                " answers wait for the disk until it takes them again",
                refusal=refusal,
                lost=lost - waiting,
            )
        else:
            self._refusal_log.refused(refusal, lost)
        self._answer_first(on=False)
        group.undo(batch, refusal, refusal)

    def _give_up(self, batch: OpenBatch, failure: Failure) -> None:
        """
        End the process.

        Unless the store is damaged, nobody knows whether the disk has the batch; only
        reading the store anew can tell.
        """
        damaged = failure.check(StoreDamaged) is not None
        self._refusal = refusal = NotTaken(_DAMAGED if damaged else "the store failed")
        self._answer_first(on=False)
        self._fatal(failure)
        unknown = OutcomeUnknown("the store failed while the step was under way")
        self._group.undo(batch, refusal if damaged else unknown, refusal)

    def _unreadable(self, error: Exception) -> Exception:
        """
        Return the error that readers get for C{error}, which a read raised.

        If the store is damaged, the committer takes nothing more and ends the process.
        """
        if not isinstance(error, StoreDamaged):
            return error
        self._damage = error
        self._refusal = NotTaken(_DAMAGED)
        self._fatal(Failure(error))
        return self._refusal

    def crashed(self, failure: Failure) -> None:
        """
        Take nothing more, and end the process.
        """
        self._refusal = self._refusal or NotTaken("the service failed")
        self._fatal(failure)
