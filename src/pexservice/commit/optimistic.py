"""
The committer of a store that other nodes write to too: many nodes, one cursor.

What a node knows of the cursor may be old, so no response comes from memory alone.
For a read, and for an unmet condition, the store is read after the request has arrived.

A commit is a compare-and-swap: the store accepts a batch only if the cursor is where the
batch starts.  If another node was faster, the batch surely never happened.  Its steps, with
their keys and conditions, are then applied to the present cursor, in their order and
followed by the steps that arrived meanwhile, and they are committed in a new batch.

A key is not looked up first: the store refuses a batch with a key that was used before, and
reports the transition that it was used for.

If the store does not respond, or would refuse a batch, the node is not ready, but it does
not end.  It checks the store once a second and refuses steps until the store accepts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.counters import NOT_TAKEN
from pexservice.commit.group_commit import GroupCommit, StepBatch
from pexservice.commit.interface import ICommitter, Outcome, Step, Waiter
from pexservice.core.cursor import State, state_at
from pexservice.process.timing import Periodic
from pexservice.stores.interface import (
    Conflict,
    HistoryEntry,
    ISharedStore,
    OutcomeUnknown,
    Refusal,
)
from pexservice.stores.remembered_keys import KeyUse

#: How often the node checks whether the store responds and would take a batch.
PROBE_INTERVAL_SECONDS = 1.0

#: Up to this many steps cost less than computing a term from its position.
MAX_NEAR_STEPS = 100


def _without_details(reason: str) -> str:
    """
    Return C{reason} without its details, which follow a colon and change with each attempt.
    """
    return reason.partition(":")[0]


def as_refusal(error: BaseException | None) -> Refusal:
    """
    Return the error for a step that surely was not made.
    """
    return error if isinstance(error, Refusal) else Refusal(str(error))


@implementer(ICommitter)
class OptimisticCommitter(GroupCommit):
    """
    The committer of one of many nodes that share a store.
    """

    _log = Logger()

    _store: ISharedStore

    def __init__(self, store: ISharedStore, reactor: IReactorTime, **options: Any) -> None:
        """
        Make the committer of C{store}; L{start} opens the store.

        @param options: those of L{GroupCommit}.
        """
        super().__init__(store, reactor, **options)
        self._probing = Periodic(self._probe, reactor)
        self._is_reading = False
        self._waiting_reads: list[Deferred[State]] = []
        # Why the store cannot be read, and why it would refuse a batch, by the last probe.
        self._store_failure: Refusal | None = None
        self._store_refusal: Refusal | None = None
        # Steps that wait for the next commit to end.
        self._backlog: list[tuple[Waiter, Step]] = []

    async def start(self) -> None:
        """
        Open the store, and begin where its cursor is.
        """
        self.restart_from(state_at(*await self._store.open()))
        self._process_refusal = self.read_refusal = None
        self._probing.start(PROBE_INTERVAL_SECONDS, now=True)
        self._store.watch(self._cursor_moved, self._cursor_went_back)

    async def stop(self) -> None:
        self._probing.stop()
        await super().stop()

    def wait_for_commit(self) -> Deferred[None]:
        """
        Wait for nothing: this process does not hang, however long the store takes.
        """
        return succeed(None)

    @property
    def visible(self) -> State:
        return self.durable

    @property
    def step_refusal(self) -> Refusal | None:
        """
        Return why steps are refused now, or C{None} if they are accepted.
        """
        return self._process_refusal or self._store_failure or self._store_refusal

    # Reads.

    def read(self, waiter: Waiter) -> None:
        """
        Show the state that the store has after this call.
        """
        self.read_durable().addCallbacks(
            lambda state: waiter.respond(Outcome.READ, state),
            lambda failure: waiter.fail(failure.value),
        ).addErrback(lambda failure: self._log.failure("a waiter failed", failure=failure))

    def read_durable(self) -> Deferred[State]:
        """
        Read the state that the store has.
        """
        error = self.read_refusal or self._store_failure
        return self._read_store() if error is None else fail(error)

    def history(self, before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Read a page of the history.
        """
        return self._store.history(before, limit)

    def _cursor_moved(self, revision: int, position: int) -> None:
        # The revision is checked first: a state costs a term, and a node that was asleep
        # gets thousands of these calls.
        if self._should_continue_from(revision):
            self.restart_from(self._state_at(revision, position))

    def _cursor_went_back(self, revision: int, position: int) -> None:
        # If steps wait, the store refuses their batch, and they are applied to this state.
        if self.is_idle:
            self.restart_from(self._state_at(revision, position))

    def _should_continue_from(self, revision: int) -> bool:
        """
        Return whether to continue from C{revision}.

        It is so if C{revision} is newer than the durable state.  While a step waits it is
        not so, since its commit will show where the cursor is.
        """
        return self.is_idle and revision > self.durable.revision

    # Reads of the store.

    def _probe(self) -> Deferred[None]:
        return self._store.check().addCallbacks(self._checked, self._note_failure)

    def _checked(self, refused: Refusal | None) -> Deferred[None]:
        self._note_refusal(refused)
        # A store that refuses batches may respond to reads.  This read also shows whether
        # the store was restored.
        return self._read_store().addCallbacks(lambda _: None, lambda _: None)

    def _note_refusal(self, reason: Refusal | None) -> None:
        """
        Refuse steps for C{reason} until a probe finds that the store takes batches again.
        """
        if _without_details(str(reason)) != _without_details(str(self._store_refusal)):
            if reason is None:
                self._log.info("the store takes steps again")
            else:
                self._log.error("steps are refused: {reason}", reason=reason)
        self._store_refusal = reason

    def _read_store(self) -> Deferred[State]:
        """
        Read a state that the cursor is in at some moment after this call.

        One read is sent at a time, for all requests that waited when it was sent.  A
        request that arrives later waits for the next read, since the state of this one may
        be older than the request.
        """
        waiting: Deferred[State] = Deferred()
        self._waiting_reads.append(waiting)
        if not self._is_reading:
            self._send_read()
        return waiting

    def _send_read(self) -> None:
        self._is_reading = True
        readers, self._waiting_reads = self._waiting_reads, []

        def deliver(result: State | Failure) -> None:
            self._is_reading = False
            if isinstance(result, Failure):
                # The requests that arrived meanwhile fail too: their own read would take as
                # long and fail as well.
                readers.extend(self._waiting_reads)
                self._waiting_reads = []
            elif self._waiting_reads:
                self._send_read()
            for reader in readers:
                reader.callback(result)

        self._store.read().addCallbacks(self._has_read, self._cannot_read).addBoth(deliver)

    def _has_read(self, cursor: tuple[int, int]) -> State:
        state = self._state_at(*cursor)
        if self._should_continue_from(state.revision):
            self.restart_from(state)
        if self._store_failure is not None:
            self._log.info("the store responds again")
            self._store_failure = None
        return state

    def _cannot_read(self, failure: Failure) -> Failure:
        self._note_failure(failure)
        return failure

    def _note_failure(self, failure: Failure) -> None:
        """
        Refuse reads and steps until the store responds to a read.
        """
        if not failure.check(Refusal, OutcomeUnknown):
            self._log.failure("the store cannot be read", failure=failure)
        reason = failure.getErrorMessage()
        if _without_details(reason) != _without_details(str(self._store_failure)):
            self._log.error("requests are refused: {reason}", reason=reason)
        self._store_failure = Refusal(reason)

    def _state_at(self, revision: int, position: int) -> State:
        """
        Return the state with this revision and position.

        If the position is near the durable one, this costs a few additions.
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
        """
        Make C{step}, unless steps are refused now.
        """
        refusal = self.step_refusal
        if refusal is None:
            self._place(step, waiter)
        else:
            self.counts.count(NOT_TAKEN, step.transition.code)
            waiter.fail(refusal)

    def _place(self, step: Step, waiter: Waiter) -> None:
        """
        Add C{step} to the open batch, if its key and its condition allow that.

        C{step} is not added if its key is in a batch already, if no more keys fit into the
        open batch, or if its condition is not met.
        """
        key = step.key
        if key is not None:
            use = self.find_key(key)
            if use is not None:
                self.replay(waiter, step, *use)
                return
            if len(self.open_batch.keys) >= self._store.max_batch_keys:
                self._postpone(step, waiter)
                return
        if step.condition is None or step.condition(self.latest):
            self.add(step, waiter)
        else:
            self._handle_unmet_condition(step, waiter)

    def _handle_unmet_condition(self, step: Step, waiter: Waiter) -> None:
        """
        Decide on C{step}, whose condition the latest state of this node does not meet.

        The state of the store may meet it: other nodes may have moved the cursor, and the
        store may refuse steps that this node has accepted.  Or the step was made before,
        with the same key, and its condition is not met because of the step itself.
        """
        if step.key is not None or self.is_idle:
            self.read_durable().addCallbacks(
                self._decide,
                lambda failure: waiter.fail(as_refusal(failure.value)),
                callbackArgs=(step, waiter),
            ).addErrback(
                lambda failure: self._log.failure("a waiter failed", failure=failure)
            )
        elif self.open_batch.transitions:
            outcome, state = Outcome.PRECONDITION_FAILED, self.latest
            self.deliver_when_durable(waiter, step, outcome, state, self.open_batch)
        else:
            # The store may have taken the committing batch before this step was requested.
            self._postpone(step, waiter)

    def _decide(self, state: State, step: Step, waiter: Waiter) -> Deferred[None] | None:
        """
        Decide on C{step} by C{state}, which the store had after C{step} was requested.
        """
        if step.condition is not None and not step.condition(state):
            return self._refuse_unmet(state, step, waiter)
        if self.is_idle:
            # This state meets the condition, and a later one might not.
            self.restart_from(state)
            self.step(step, waiter)
        elif step.key is None:
            self.step(step, waiter)
        else:
            # The condition may be unmet because of steps that wait for their commit.
            self._postpone(step, waiter)
        return None

    def _refuse_unmet(
        self, state: State, step: Step, waiter: Waiter
    ) -> Deferred[None] | None:
        """
        Respond that C{state} does not meet the condition, unless the key was used before.
        """

        def recalled(first: KeyUse | None) -> None:
            if first is None:
                unmet = Outcome.PRECONDITION_FAILED
                self.deliver_when_durable(waiter, step, unmet, state, None)
            else:
                used = self._state_at(first.revision, first.position)
                self.replay(waiter, step, first.transition, used)

        def failed(failure: Failure) -> None:
            waiter.fail(as_refusal(failure.value))

        if step.key is None:
            recalled(None)
            return None
        use = self.find_key(step.key)
        if use is not None:
            self.replay(waiter, step, *use)
            return None
        return self._store.recall(step.key).addCallbacks(recalled, failed)

    def _postpone(self, step: Step, waiter: Waiter) -> None:
        if not self._backlog:
            self.when_commit_ends().addCallback(self._take_backlog)
        self._backlog.append((waiter, step))

    def _take_backlog(self, _: None) -> None:
        backlog, self._backlog = self._backlog, []
        self._place_again(backlog, {})

    def _place_again(
        self, steps: Iterable[tuple[Waiter, Step]], used: Mapping[bytes, KeyUse]
    ) -> None:
        """
        Place C{steps} once more.

        @param used: those of the steps' keys that were used before, with their first uses.
        """
        for waiter, step in steps:
            first = None if step.key is None else used.get(step.key)
            try:
                if first is None:
                    self._place(step, waiter)
                else:
                    state = self._state_at(first.revision, first.position)
                    self.replay(waiter, step, first.transition, state)
            except Exception:  # noqa: BLE001 one waiter's fault is not the others'
                self._log.failure("a waiter failed")

    def _when_ready(self) -> None:
        """
        Write the open batch when it is this node's turn.
        """
        self._store.turn().addCallback(self._has_turn).addErrback(self.end_process)

    def _has_turn(self, cursor: tuple[int, int]) -> None:
        """
        Commit the open batch, on top of where the cursor is now.
        """
        if cursor != (self.durable.revision, self.durable.position):
            self._rebase([self.open_batch], *cursor, {})
        self.write()

    def _rebase(
        self,
        batches: Iterable[StepBatch],
        revision: int,
        position: int,
        used: Mapping[bytes, KeyUse],
    ) -> None:
        """
        Apply the steps of C{batches}, which have not happened, to the present cursor.
        """
        steps = [
            (waiter, step)
            for batch in batches
            for waiter, *_, step in batch.waiting_requests
        ]
        self.restart_from(self._state_at(revision, position))
        self._place_again(steps, used)

    def _commit_failed(self, batch: StepBatch, failure: Failure) -> None:
        """
        Apply the steps again if another node moved the cursor first; else call the waiters.
        """
        error = failure.value
        if isinstance(error, Conflict):
            batches = [batch, self.open_batch]
            self._rebase(batches, error.revision, error.position, error.used)
            if self.open_batch.transitions:
                self.commit_open_batch()
            return
        if isinstance(error, Refusal):
            self._note_refusal(error)
        elif isinstance(error, OutcomeUnknown):
            self._note_failure(failure)
        else:
            self.end_process(failure)
            error = OutcomeUnknown("the store failed while the step was under way")
        # Steps of the open batch were not sent to the store: they surely did not happen.
        self.roll_back(batch, error, as_refusal(error))
