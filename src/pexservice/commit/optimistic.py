"""
The committer of a store that several nodes write to.

Another node may have moved the cursor, and this node may not know that yet.  So no response
comes from the memory of this node alone.  For each read, the node asks the store.  If the
latest state of this node does not meet the precondition of a step, the precondition is
checked again: with a state that was read from the store, or after a commit.

A commit is a compare-and-swap: the store accepts a batch only if the cursor is where the
batch begins.  If another node has moved the cursor first, the batch is not stored.  The
committer then applies the steps of this batch and of the open batch to the present cursor,
in this order, and commits them in a new batch.  Before that, it checks their keys and
preconditions again.

The committer does not look up a key before a commit.  If a key of a batch was used before,
the store refuses the batch, and returns the first use of this key.

If the store does not respond, or would refuse a batch, the process does not end.  The node
refuses steps, is not ready, and checks the store once a second.  When the store would
accept a batch, the node accepts steps again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.group_commit import GroupCommit, PendingBatch
from pexservice.commit.interface import ICommitter, Outcome, Step, Waiter
from pexservice.core.cursor import Cursor, State, state_at
from pexservice.process.timing import Periodic
from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.stores.interface import HistoryEntry
from pexservice.stores.remembered_keys import KeyUse
from pexservice.stores.shared_interface import Conflict, ISharedStore

#: How often the node checks whether the store responds and would accept a batch.
PROBE_INTERVAL_SECONDS = 1.0

#: A term that is at most this many positions away from the known term is computed from it
#: by additions or subtractions.  For a greater distance, L{state_at} is faster.
MAX_NEAR_STEPS = 100


def _without_details(reason: str) -> str:
    """
    Return the part of C{reason} before the first colon.

    The part after the colon has details that differ each time.
    """
    return reason.partition(":")[0]


def _as_refusal(error: BaseException | None) -> Refusal:
    """
    Return C{error} as a refusal, for a step that was not sent to the store.
    """
    return error if isinstance(error, Refusal) else Refusal(str(error))


@implementer(ICommitter)
class OptimisticCommitter(GroupCommit):
    """
    The committer of one of the nodes that write to the store.
    """

    _log = Logger()

    _store: ISharedStore

    def __init__(self, store: ISharedStore, reactor: IReactorTime, **options: Any) -> None:
        """
        Make the committer with the C{options} of L{GroupCommit}; L{start} opens the store.
        """
        super().__init__(store, reactor, **options)
        self._probing = Periodic(lambda: Deferred.fromCoroutine(self._probe()), reactor)
        # Whether a commit has begun, but waits for this node's turn to write.  Meanwhile
        # the open batch collects more steps, and no other commit begins.
        self._waits_for_turn = False
        self._is_reading = False
        self._waiting_reads: list[Deferred[State]] = []
        # Why the store does not respond, and why it would refuse a batch.
        self._outage: Refusal | None = None
        self._commit_refusal: Refusal | None = None
        # The steps that are placed again when the next commit ends.
        self._backlog: list[tuple[Step, Waiter]] = []

    async def start(self, _: Callable[[], object] | None = None) -> None:
        self._continue_from(state_at(*await self._store.open()))
        self._own_refusal = self.read_refusal = None
        self._probing.start(PROBE_INTERVAL_SECONDS, now=True)
        self._store.watch(self._adopt)

    async def stop(self) -> None:
        self._probing.stop()
        await super().stop()

    @property
    def _is_idle(self) -> bool:
        return super()._is_idle and not self._backlog

    def wait_for_commit(self) -> Deferred[None]:
        """
        Fire at once: a slow store does not make this process hang.
        """
        return succeed(None)

    @property
    def step_refusal(self) -> Refusal | None:
        return self._own_refusal or self._outage or self._commit_refusal

    # Reads.

    def read(self, waiter: Waiter) -> None:
        """
        Give C{waiter} a state that the store had at some moment after this call.
        """
        self.read_durable().addCallbacks(
            lambda state: waiter.respond(Outcome.READ, state),
            lambda failure: waiter.fail(failure.value),
        ).addErrback(self._waiter_failed)

    def _waiter_failed(self, failure: Failure) -> None:
        self._log.failure("a waiter failed", failure=failure)

    def read_durable(self) -> Deferred[State]:
        error = self.read_refusal or self._outage
        return self._read_store() if error is None else fail(error)

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        return self._store.history(before, limit)

    def _adopt(self, cursor: Cursor) -> None:
        """
        Continue from C{cursor}, the newest one that the store knows, if no step waits.

        If a step waits, this node learns the cursor at its turn or when the commit ends.
        """
        # The cursors are compared first, because computing a state is expensive.
        if self._is_idle and cursor != self.durable.cursor:
            self._continue_from(self._state_at(*cursor))

    # Reads of the store.

    async def _probe(self) -> None:
        """
        Ask the store whether it would accept a batch, and read the cursor.
        """
        refusal_before = self._commit_refusal
        try:
            refusal = await self._store.probe()
        except Exception:  # noqa: BLE001 it is noted
            self._note_outage(Failure())
            return
        if refusal is not None:
            self._note_commit_refusal(refusal)
        # Steps are accepted again only after a successful read, because only a read shows
        # whether an operator has restored the store.
        try:
            await self._read_store()
        except Exception:  # noqa: BLE001 L{_send_read} has noted it
            return
        # If a batch was refused since the probe was sent, this refusal is newer.
        if refusal is None and self._commit_refusal is refusal_before:
            self._note_commit_refusal(None)

    def _note_commit_refusal(self, reason: Refusal | None) -> None:
        """
        Refuse steps because of C{reason}; if C{reason} is C{None}, accept them again.
        """
        if _without_details(str(reason)) != _without_details(str(self._commit_refusal)):
            if reason is None:
                self._log.info("steps are accepted again")
            else:
                self._log.error("steps are refused: {reason}", reason=reason)
        self._commit_refusal = reason

    def _read_store(self) -> Deferred[State]:
        """
        Read a state that the store had at some moment after this call.

        The committer sends one read at a time to the store.  This read serves all requests
        that were waiting when the read was sent.  A request that arrives later waits for
        the next read, because the present read may return a state that is older than the
        request.
        """
        state: Deferred[State] = Deferred()
        self._waiting_reads.append(state)
        if not self._is_reading:
            self._send_read()
        return state

    def _send_read(self) -> None:
        self._is_reading = True
        served_reads, self._waiting_reads = self._waiting_reads, []

        def deliver(result: State | Failure) -> None:
            self._is_reading = False
            if isinstance(result, Failure):
                self._note_outage(result)
                # The requests that have arrived meanwhile fail too.  Another read for them
                # would probably fail after the same time.
                served_reads.extend(self._waiting_reads)
                self._waiting_reads = []
            elif self._waiting_reads:
                self._send_read()
            for state in served_reads:
                state.callback(result)

        self._store.read().addCallback(self._has_read).addBoth(deliver)

    def _has_read(self, cursor: Cursor) -> State:
        self._adopt(cursor)
        if self._outage is not None:
            self._log.info("the store responds again")
            self._outage = None
        return self._state_at(*cursor)

    def _note_outage(self, failure: Failure) -> None:
        """
        Refuse reads and steps because of C{failure}, until a read succeeds.
        """
        if not failure.check(Refusal, OutcomeUnknown):
            self._log.failure("the store cannot be read", failure=failure)
        reason = failure.getErrorMessage()
        if _without_details(reason) != _without_details(str(self._outage)):
            self._log.error("requests are refused: {reason}", reason=reason)
        self._outage = Refusal(reason)

    def _state_at(self, revision: int, position: int) -> State:
        """
        Return the state with this revision and position.

        If the position is near the durable position, a few additions compute the term.
        """
        term = self.durable.term
        if abs(position - term.position) > MAX_NEAR_STEPS:
            return state_at(revision, position)
        while term.position < position:
            term = self._term_cache.forward(term)
        while term.position > position:
            term = self._term_cache.backward(term)
        return State(revision, term)

    # Steps.

    def step(self, step: Step, waiter: Waiter) -> None:
        refusal = self.step_refusal
        if refusal is None:
            self._place(step, waiter)
        else:
            self._refuse(step, waiter, refusal)

    def _place(self, step: Step, waiter: Waiter) -> None:
        """
        Add C{step} to the open batch, if its key and its precondition allow this.

        If the open or the committing batch has the key, C{step} is not applied.  If the
        open batch has the maximum number of keys, C{step} waits for the next batch.
        """
        key = step.key
        if key is not None:
            first_use = self._find_use_in_batches(key)
            if first_use is not None:
                self._respond_to_used_key(step, waiter, *first_use)
                return
            if len(self._open_batch.keys) >= self._store.max_batch_keys:
                self._postpone(step, waiter)
                return
        if step.precondition is None or step.precondition(self._latest):
            self._accept(step, waiter)
        else:
            self._handle_unmet_precondition(step, waiter)

    def _handle_unmet_precondition(self, step: Step, waiter: Waiter) -> None:
        """
        Handle C{step}, whose precondition the latest state of this node does not meet.

        The state of the store may still meet the precondition: other nodes may have moved
        the cursor, and the store may refuse steps that this node has accepted.  If C{step}
        has a key, C{step} may be a replay, and then its precondition need not be met.
        """
        if step.key is not None or self._is_idle:
            checked = Deferred.fromCoroutine(self._check_precondition_again(step, waiter))
            checked.addErrback(self._waiter_failed)
        elif self._open_batch.transitions:
            request = (step, waiter, Outcome.PRECONDITION_FAILED, self._latest)
            self._respond_when_visible(request, self._open_batch)
        else:
            # The latest state is that of the committing batch.  If this batch is stored
            # already, another node may have moved the cursor since.  So the precondition is
            # checked again after the commit.
            self._postpone(step, waiter)

    async def _check_precondition_again(self, step: Step, waiter: Waiter) -> None:
        """
        Check the precondition of C{step} with a state that is read from the store now.
        """
        try:
            state = await self.read_durable()
        except Exception as error:  # noqa: BLE001 the waiter gets it
            waiter.fail(_as_refusal(error))
            return
        if step.precondition is not None and not step.precondition(state):
            await self._respond_to_unmet_precondition(state, step, waiter)
        elif self._is_idle:
            # The step is applied to this state, because another state might not meet the
            # precondition.
            self._continue_from(state)
            self.step(step, waiter)
        else:
            # Other steps have arrived meanwhile, and only the end of their commit shows
            # the next state of the store.
            self._postpone(step, waiter)

    async def _respond_to_unmet_precondition(
        self, state: State, step: Step, waiter: Waiter
    ) -> None:
        """
        Respond that C{state} does not meet the precondition, unless C{step} is a replay.
        """
        if step.key is not None:
            in_batch = self._find_use_in_batches(step.key)
            if in_batch is not None:
                self._respond_to_used_key(step, waiter, *in_batch)
                return
            try:
                first_use = await self._store.recall(step.key)
            except Exception as error:  # noqa: BLE001 the waiter gets it
                waiter.fail(_as_refusal(error))
                return
            if first_use is not None:
                self._respond_to_used_key(step, waiter, first_use)
                return
        self._deliver_one((step, waiter, Outcome.PRECONDITION_FAILED, state))

    def _postpone(self, step: Step, waiter: Waiter) -> None:
        if not self._backlog:
            self._next_commit_end().addCallback(self._place_backlog)
        self._backlog.append((step, waiter))

    def _place_backlog(self, _: None) -> None:
        backlog, self._backlog = self._backlog, []
        self._place_again(backlog, {})

    def _place_again(
        self,
        steps: Iterable[tuple[Step, Waiter]],
        first_uses: Mapping[bytes, KeyUse | Refusal],
    ) -> None:
        """
        Call L{_place} for C{steps} once more.

        @param first_uses: the keys of these steps that were used before.  The value of a
            key is its first use, or the reason why the first use cannot be read.
        """
        for step, waiter in steps:
            first_use = None if step.key is None else first_uses.get(step.key)
            try:
                if first_use is None:
                    self._place(step, waiter)
                elif isinstance(first_use, Refusal):
                    self._refuse(step, waiter, first_use)
                else:
                    self._respond_to_used_key(step, waiter, first_use)
            except Exception:  # noqa: BLE001 it is logged, and the other steps are placed
                self._log.failure("a waiter failed")

    def _schedule_commit(self) -> None:
        if not self._waits_for_turn:
            super()._schedule_commit()

    def _begin_commit(self) -> None:
        if not self._waits_for_turn:
            super()._begin_commit()

    def _write_open_batch(self) -> None:
        """
        Wait until it is this node's turn, and write the open batch to the store.
        """
        self._waits_for_turn = True
        self._store.turn().addCallback(self._has_turn).addErrback(
            self._end_process_after_bug
        )

    def _has_turn(self, cursor: Cursor) -> None:
        """
        Apply the steps of the open batch to the present C{cursor}, and write the batch.

        Steps whose precondition is no longer met leave the batch.  If no step remains,
        nothing is written.
        """
        if cursor != self.durable.cursor:
            self._rebase([self._open_batch], cursor, {})
        self._waits_for_turn = False
        if self._open_batch.transitions:
            super()._write_open_batch()
        else:
            self._continue_after_commit()

    def _end_process_after_bug(self, failure: Failure) -> None:
        self._waits_for_turn = False
        super()._end_process_after_bug(failure)

    def _rebase(
        self,
        batches: Iterable[PendingBatch],
        cursor: Cursor,
        first_uses: Mapping[bytes, KeyUse | Refusal],
    ) -> None:
        """
        Apply the steps of C{batches}, which are not stored, to the present C{cursor}.

        @param first_uses: see L{_place_again}.
        """
        steps = [
            (step, waiter)
            for batch in batches
            for step, waiter, _, _ in batch.waiting_requests
        ]
        self._continue_from(self._state_at(*cursor))
        self._place_again(steps, first_uses)

    def _commit_failed(self, batch: PendingBatch, failure: Failure) -> None:
        """
        After a L{Conflict}, commit the steps again; after another error, let them fail.
        """
        error = failure.value
        if isinstance(error, Conflict):
            self._rebase([batch, self._open_batch], error.cursor, error.used)
            if self._open_batch.transitions:
                self._begin_commit()
            return
        if isinstance(error, Refusal):
            self._note_commit_refusal(error)
        elif isinstance(error, OutcomeUnknown):
            self._note_outage(failure)
        else:
            unknown = OutcomeUnknown("the service failed during a commit")
            self._roll_back((batch, unknown), (self._open_batch, _as_refusal(unknown)))
            # This is a bug.  The base class ends the process after an exception.
            failure.raiseException()
        self._roll_back((batch, error), (self._open_batch, _as_refusal(error)))
