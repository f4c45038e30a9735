"""
Group commit for a store that others move too: many nodes, one cursor.

What a node knows of the cursor may be old.  So nothing is told from memory alone: a
look, an unmet condition included, is read from the store after it was asked for, and
a batch is a compare-and-swap.  One that lost the race surely never happened; its
moves, with their keys and conditions, are applied to where the cursor is now, in
their order and together with those that came meanwhile.  Waiters are told by the
batch that won.

A key is not looked up first: the store refuses a batch with a key that had been used,
and says with what for.

A store that does not answer makes the node unready, not dead.  It is asked again and
again, and until it answers nothing is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.batch import OpenBatch
from pexservice.commit.committer import Committer
from pexservice.commit.requests import KeyReused, Move, Outcome, Result, Waiter, fires
from pexservice.core.cursor import State, Transition, state_at
from pexservice.process.periodic import Periodic
from pexservice.stores.interface import (
    Conflict,
    ISharedStore,
    NotTaken,
    OutcomeUnknown,
    Remembered,
    Row,
)

#: How many keys one batch may have: what etcd takes in one transaction, less what
#: else is in it.
MOST_KEYS = 100

#: How often an idle store is asked whether it is there.  Seconds.
PROBE = 1.0

#: How many steps cost less than making a term from its position.
NEAR = 100

#: What the memo asks for a read: a move that nobody makes.
READ = Move(Transition.NEXT, condition=lambda _: False)


class OptimisticCommitter(Committer):
    """
    One of many ways to the store.

    @ivar durable: what the store had when it was last heard of.
    """

    _log = Logger()

    read_move = READ

    def __init__(self, store: ISharedStore, *args: Any, **kwargs: Any) -> None:
        super().__init__(store, *args, **kwargs)
        self._shared = store
        self._reading: list[Deferred[State]] | None = None
        self._next_reading: list[Deferred[State]] = []
        # What has to wait for the commit under way to end.
        self._backlog: list[tuple[Waiter, Move]] = []
        self._away: NotTaken | None = None
        self._probing = Periodic(self._probe, self._reactor)

    async def start(self) -> None:
        """
        See L{Committer.start}.
        """
        await super().start()
        self._probing.start(PROBE)
        self._shared.watch(self._hear)

    async def stop(self) -> None:
        """
        See L{Committer.stop}.
        """
        self._probing.stop()
        await super().stop()

    def drain(self) -> Deferred[None]:
        """
        See L{Committer.drain}.
        """
        if self._refusal is self._away:
            # It must not be lifted any more.
            self._refusal = None
        return super().drain()

    def settled(self) -> Deferred[None]:
        """
        At once: this process is alive however long the store takes.
        """
        return succeed(None)

    # Looks.

    def read_current(self) -> Deferred[State]:
        """
        See L{Committer.read_current}.  Those that wait share a read of the store; who comes
        when that was sent already waits for the next one.
        """
        refusal = self.unread or (self._away if self._refusal is self._away else None)
        return self._read_store() if refusal is None else fail(refusal)

    read_durable = read_current

    def _read_store(self) -> Deferred[State]:
        waiting: Deferred[State] = Deferred()
        self._next_reading.append(waiting)
        if self._reading is None:
            self._begin_reading()
        return waiting

    def _begin_reading(self) -> None:
        self._reading, self._next_reading = self._next_reading, []
        self._shared.read().addCallback(self._has_read).addErrback(
            self._cannot_read
        ).addBoth(self._end_reading).addErrback(self._give_up_on_ourselves)

    def _hear(self, revision: int, position: int) -> None:
        """
        The cursor is there, or was.
        """
        self._take_up(self._near(revision, position))

    def _take_up(self, state: State) -> None:
        """
        Go on from C{state}, unless it is an old one, or there are moves that will show
        where the cursor is.
        """
        if self._idle and state.revision > self.durable.revision:
            self._begin_at(state)

    @property
    def _idle(self) -> bool:
        return self._under_way is None and not self._open.transitions

    def _begin_at(self, state: State) -> None:
        self.durable = self.latest = state
        self._open = OpenBatch(state)

    def _has_read(self, cursor: tuple[int, int]) -> State:
        state = self._near(*cursor)
        self._take_up(state)
        if self._away is not None and self._refusal is self._away:
            self._log.info("the store answers again")
            self._refusal = None
        self._away = None
        return state

    def _near(self, revision: int, position: int) -> State:
        """
        The state that two numbers stand for, at little cost if the cursor is not far
        from where it was last heard of.
        """
        term = self.durable.term
        if abs(position - term.position) > NEAR:
            return state_at(revision, position)
        while term.position < position:
            term = self._neighbours.forward(term)
        while term.position > position:
            term = self._neighbours.backward(term)
        return State(revision, term)

    def _cannot_read(self, failure: Failure) -> Failure:
        self._unavailable(failure)
        return failure

    def _unavailable(self, failure: Failure) -> None:
        if not failure.check(NotTaken, OutcomeUnknown):
            self._log.failure("the store cannot be read", failure=failure)
        reason = failure.getErrorMessage()
        if self._refusal is None:
            self._log.error(
                "{reason}, and nothing is taken until it does ({cause})",
                reason=reason,
                cause=getattr(failure.value, "__cause__", None),
            )
            self._refusal = self._away = NotTaken(reason)

    def _end_reading(self, result: State | Failure) -> None:
        reading, self._reading = cast(list[Deferred[State]], self._reading), None
        if self._next_reading:
            self._begin_reading()
        for each in reading:
            each.callback(result)

    def _probe(self) -> Deferred[None]:
        return self._read_store().addCallbacks(lambda _: None, lambda _: None)

    def history(self, before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        See L{IStore.history}.
        """
        return self._shared.history(before, limit)

    # Moves.

    def submit(self, move: Move) -> Deferred[Outcome]:
        """
        See L{Committer.submit}.
        """
        if move.key is None or self._refusal is not None:
            return super().submit(move)
        deferred: Deferred[Outcome] = Deferred()
        self._place(move, fires(deferred))
        return deferred

    def _place(self, move: Move, waiter: Waiter) -> None:
        """
        Have C{move} made, unless its key is in a batch already, or no more of them
        fit in.
        """
        key = move.key
        if key is not None:
            for batch in (self._under_way, self._open):
                if batch is None or key not in batch.keys:
                    continue
                transition, state = batch.keys[key]
                if transition is move.transition:
                    self._tell(waiter, move, Outcome(Result.REPLAYED, state), batch)
                else:
                    waiter(KeyReused(transition))
                return
            if len(self._open.keys) >= MOST_KEYS:
                self._backlog.append((waiter, move))
                return
        self.move(move, waiter)

    def _unmet(self, move: Move, waiter: Waiter) -> None:
        """
        See L{Committer._unmet}.  That may be so only because others moved, or because
        of moves that never come to be.
        """
        if move is not READ and self._open.transitions:
            super()._unmet(move, waiter)
        elif move is not READ and self._under_way is not None:
            # It may have happened before this was asked for.
            self._backlog.append((waiter, move))
        else:
            self.read_current().addCallbacks(
                lambda state: self._judge(state, move, waiter),
                lambda failure: waiter(_as_refusal(failure)),
            ).addErrback(
                lambda failure: self._log.failure("a waiter failed", failure=failure)
            )

    def _judge(self, state: State, move: Move, waiter: Waiter) -> None:
        """
        The cursor was at C{state} after C{move} was asked for.
        """
        if move is READ:
            waiter(Outcome(Result.PRECONDITION_FAILED, state))
        elif move.condition is None or move.condition(state):
            if self._idle:
                # Compared with another state, it might not be met for ever.
                self._begin_at(state)
            self._place(move, waiter)
        else:
            self._tell(waiter, move, Outcome(Result.PRECONDITION_FAILED, state), None)

    # Commits that fail.

    def _failed(self, gathered: OpenBatch, failure: Failure) -> bool:
        """
        See L{Committer._failed}.
        """
        error = failure.value
        if isinstance(error, Conflict):
            self._rebase(gathered, error)
            return bool(self._open.transitions)
        if not isinstance(error, OutcomeUnknown):
            return super()._failed(gathered, failure)
        self._unavailable(failure)
        built_on_it, self._open = self._open, OpenBatch(self.durable)
        self.latest = self.durable
        self._answer(gathered, error)
        # What was not sent can only happen by being asked for again.
        self._answer(built_on_it, _as_refusal(failure))
        return False

    def _rebase(self, gathered: OpenBatch, conflict: Conflict) -> None:
        """
        What was submitted follows where the cursor is now.
        """
        moves = [
            (waiter, move)
            for batch in (gathered, self._open)
            for waiter, _, move in batch.answers
        ]
        self._begin_at(self._near(conflict.revision, conflict.position))
        self._again(moves, conflict.used)

    def _again(
        self, moves: Iterable[tuple[Waiter, Move]], used: Mapping[bytes, Remembered]
    ) -> None:
        for waiter, move in moves:
            first = None if move.key is None else used.get(move.key)
            try:
                if first is None:
                    self._place(move, waiter)
                elif first.transition is move.transition:
                    state = self._near(first.revision, first.position)
                    self._tell(waiter, move, Outcome(Result.REPLAYED, state), None)
                else:
                    waiter(KeyReused(first.transition))
            except Exception:  # noqa: BLE001 one waiter's fault is not the others'
                self._log.failure("a waiter failed")

    def _go_on(self, arrived: bool) -> None:  # noqa: FBT001 as the inherited one
        """
        See L{Committer._go_on}.
        """
        backlog, self._backlog = self._backlog, []
        self._again(backlog, {})
        super()._go_on(arrived or bool(backlog and self._open.transitions))


def _as_refusal(failure: Failure) -> Exception:
    """
    For who asked for what surely did not happen.
    """
    error = failure.value
    return error if isinstance(error, NotTaken) else NotTaken(str(error))
