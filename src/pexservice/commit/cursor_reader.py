"""
Reads of a cursor that other nodes move too.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.core.cursor import State, state_at
from pexservice.core.sequence import TermCache
from pexservice.process.periodic import Periodic
from pexservice.stores.interface import ISharedStore, NotTaken, OutcomeUnknown

#: How often the store is asked whether it answers.  Seconds.
PROBE = 1.0

#: How many steps cost less than making a term from its position.
NEAR = 100


class CursorReader:
    """
    A reader of the store's cursor, which finds out whether the store answers.

    One read is under way at a time, shared by the requests that waited when it was sent.
    Its answer may be from before a later request came, so that request waits for the next
    read.

    @ivar away: why there is no use in asking the store, or C{None} if it answers.
    """

    _log = Logger()

    def __init__(
        self,
        store: ISharedStore,
        clock: IReactorTime,
        known: Callable[[], State],
        seen: Callable[[State], None],
    ) -> None:
        """
        Make a reader of the cursor of C{store}.

        @param known: the state that the cursor is probably near to.
        @param seen: called with each state that was read, before its readers get it.
        """
        self._store = store
        self._known = known
        self._seen = seen
        self._term_cache = TermCache()
        self._probing = Periodic(self._probe, clock)
        self._under_way = False
        self._waiting: list[Deferred[State]] = []
        self.away: NotTaken | None = None

    def start(self) -> None:
        """
        Begin to ask, again and again, whether the store answers.
        """
        self._probing.start(PROBE)

    def stop(self) -> None:
        """
        Stop asking whether the store answers.
        """
        self._probing.stop()

    def read(self) -> Deferred[State]:
        """
        Read a state that the cursor is in at some moment after this call.

        @raise NotTaken: the store is known not to answer.
        @raise OutcomeUnknown: it did not answer this read.
        """
        return self._ask() if self.away is None else fail(self.away)

    def _probe(self) -> Deferred[None]:
        return self._ask().addCallbacks(lambda _: None, lambda _: None)

    def _ask(self) -> Deferred[State]:
        waiting: Deferred[State] = Deferred()
        self._waiting.append(waiting)
        if not self._under_way:
            self._send()
        return waiting

    def _send(self) -> None:
        self._under_way = True
        readers, self._waiting = self._waiting, []

        def answer(result: State | Failure) -> None:
            self._under_way = False
            if self._waiting:
                self._send()
            for each in readers:
                each.callback(result)

        self._store.read().addCallbacks(self._has_read, self._cannot_read).addBoth(answer)

    def _has_read(self, cursor: tuple[int, int]) -> State:
        state = self.state_at(*cursor)
        self._seen(state)
        if self.away is not None:
            self._log.info("the store answers again")
            self.away = None
        return state

    def _cannot_read(self, failure: Failure) -> Failure:
        if not failure.check(NotTaken, OutcomeUnknown):
            self._log.failure("the store cannot be read", failure=failure)
        self.unavailable(failure)
        return failure

    def unavailable(self, failure: Failure) -> None:
        """
        Take note that the store does not answer, until a read is answered.
        """
        if self.away is None:
            reason = failure.getErrorMessage()
            self._log.error(
                "{reason}, and nothing is taken until it does ({cause})",
                reason=reason,
                cause=getattr(failure.value, "__cause__", None),
            )
            self.away = NotTaken(reason)

    def state_at(self, revision: int, position: int) -> State:
        """
        Return the state with this revision and position.

        The cost is small if the position is not far from the last known one.
        """
        term = self._known().term
        if abs(position - term.position) > NEAR:
            return state_at(revision, position)
        while term.position < position:
            term = self._term_cache.forward(term)
        while term.position > position:
            term = self._term_cache.backward(term)
        return State(revision, term)
