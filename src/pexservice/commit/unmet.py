"""
Conditions that look unmet to a node, while other nodes move the cursor too.

The node's knowledge may be old, so the store is read after the move was asked for.  And a
move may have been made before, with the same key, so that its condition is not met any
more because of itself: its key is looked up after the cursor was read.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.cursor_reader import CursorReader
from pexservice.commit.group_commit import GroupCommit
from pexservice.commit.requests import Outcome, Step, Waiter
from pexservice.core.cursor import State
from pexservice.stores.interface import ISharedStore, NotTaken, Remembered


def as_refusal(error: BaseException | None) -> NotTaken:
    """
    Return the error for a move that surely did not happen.
    """
    return error if isinstance(error, NotTaken) else NotTaken(str(error))


class UnmetConditions:
    """
    The decision on moves whose conditions look unmet: to make, postpone or refuse them.
    """

    _log = Logger()

    def __init__(
        self,
        store: ISharedStore,
        group: GroupCommit,
        reader: CursorReader,
        *,
        make: Callable[[Step, Waiter], None],
        postpone: Callable[[Step, Waiter], None],
    ) -> None:
        """
        Prepare to decide on moves for the committer C{group}.

        @param make: makes a move whose condition may be met.
        @param postpone: makes a move when the next commit has ended.
        """
        self._store = store
        self._group = group
        self._reader = reader
        self._make = make
        self._postpone = postpone

    def ask(self, step: Step, waiter: Waiter) -> None:
        """
        Ask the store where the cursor is, and go on with C{step} from there.
        """
        self._reader.read().addCallbacks(
            self._judge,
            lambda failure: waiter.fail(as_refusal(failure.value)),
            callbackArgs=(step, waiter),
        ).addErrback(lambda failure: self._log.failure("a waiter failed", failure=failure))

    def _judge(self, state: State, step: Step, waiter: Waiter) -> Deferred[None] | None:
        """
        Go on with C{step}; the cursor was at C{state} after the move was asked for.
        """
        group, condition = self._group, step.condition
        if condition is not None and not condition(state):
            return self._refuse(state, step, waiter)
        if group.is_idle:
            # The condition, compared with another state, might not be met for ever.
            group.restart_from(state)
            self._make(step, waiter)
        elif step.key is None:
            self._make(step, waiter)
        else:
            # Moves that may keep the condition from being met are under way.
            self._postpone(step, waiter)
        return None

    def _refuse(self, state: State, step: Step, waiter: Waiter) -> Deferred[None] | None:
        """
        Tell C{waiter} that the condition was not met, unless the key had been used by then.

        The condition was compared with C{state}.
        """

        def recalled(first: Remembered | None) -> None:
            if first is None:
                unmet = Outcome.PRECONDITION_FAILED
                self._group.respond(waiter, step, unmet, state, None)
            else:
                led_to = self._reader.state_at(first.revision, first.position)
                self._group.replay(waiter, step, first.transition, led_to)

        def failed(failure: Failure) -> None:
            waiter.fail(as_refusal(failure.value))

        if step.key is None:
            recalled(None)
            return None
        found = self._group.find_key(step.key)
        if found is not None:
            self._group.replay(waiter, step, *found)
            return None
        return self._store.recall(step.key).addCallbacks(recalled, failed)
