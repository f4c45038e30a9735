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

#: How often the store is asked whether it answers, and would take a batch.
PROBE_INTERVAL_SECONDS = 1.0

#: Up to this many steps cost less than computing a term from its position.
MAX_NEAR_STEPS = 100


def _fault(reason: str) -> str:
    return reason.partition(":")[0]


class CursorReader:
    """
    Reads the store's cursor, and finds out whether the store answers and takes batches.

    One read is sent at a time, and shared by the requests that waited when it was sent.
    Its answer may be older than a later request, so that request waits for the next read.

    @ivar unreadable: why the store cannot be read; C{None} if it can.
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

        @param known: returns the state that the cursor is probably near to.
        @param seen: called with each state that was read, before its readers get it.
        """
        self._store = store
        self._known = known
        self._seen = seen
        self._term_cache = TermCache()
        self._probing = Periodic(self._probe, clock)
        self._sent = False
        self._waiting: list[Deferred[State]] = []
        # Why the store would refuse a batch, by the last probe.
        self._refused: NotTaken | None = None
        self.unreadable: NotTaken | None = None

    @property
    def refusal(self) -> NotTaken | None:
        """
        Return why no batch would be taken now, or C{None} if one would.
        """
        return self.unreadable or self._refused

    def start(self) -> None:
        """
        Begin to ask, again and again, whether the store would take a batch.
        """
        self._probing.start(PROBE_INTERVAL_SECONDS, now=True)

    def stop(self) -> None:
        """
        Stop asking.
        """
        self._probing.stop()

    def read(self) -> Deferred[State]:
        """
        Read a state that the cursor is in at some moment after this call.

        @raise NotTaken: the store does not answer, or not with a cursor.
        """
        return self._ask() if self.unreadable is None else fail(self.unreadable)

    def _probe(self) -> Deferred[None]:
        return self._store.check().addCallbacks(self._checked, self.unavailable)

    def _checked(self, refused: NotTaken | None) -> Deferred[None]:
        self.refuse(refused)
        # A store that refuses batches may still answer reads, and may have been restored.
        return self._ask().addCallbacks(lambda _: None, lambda _: None)

    def refuse(self, reason: NotTaken | None) -> None:
        """
        Refuse steps for C{reason} until a probe finds that the store takes batches again.
        """
        if _fault(str(reason)) != _fault(str(self._refused)):
            if reason is None:
                self._log.info("the store takes steps again")
            else:
                self._log.error("steps are refused: {reason}", reason=reason)
        self._refused = reason

    def _ask(self) -> Deferred[State]:
        waiting: Deferred[State] = Deferred()
        self._waiting.append(waiting)
        if not self._sent:
            self._send()
        return waiting

    def _send(self) -> None:
        self._sent = True
        readers, self._waiting = self._waiting, []

        def answer(result: State | Failure) -> None:
            self._sent = False
            if isinstance(result, Failure):
                # The requests that came meanwhile would wait as long, and fail as well.
                readers.extend(self._waiting)
                self._waiting = []
            elif self._waiting:
                self._send()
            for reader in readers:
                reader.callback(result)

        self._store.read().addCallbacks(self._has_read, self._cannot_read).addBoth(answer)

    def _has_read(self, cursor: tuple[int, int]) -> State:
        state = self.state_at(*cursor)
        self._seen(state)
        if self.unreadable is not None:
            self._log.info("the store answers again")
            self.unreadable = None
        return state

    def _cannot_read(self, failure: Failure) -> Failure:
        self.unavailable(failure)
        return failure

    def unavailable(self, failure: Failure) -> None:
        """
        Refuse reads and steps until the store answers a read.
        """
        if not failure.check(NotTaken, OutcomeUnknown):
            self._log.failure("the store cannot be read", failure=failure)
        reason = failure.getErrorMessage()
        # The details, which follow a colon, may change with each attempt.
        if _fault(reason) != _fault(str(self.unreadable)):
            self._log.error("requests are refused: {reason}", reason=reason)
        self.unreadable = NotTaken(reason)

    def state_at(self, revision: int, position: int) -> State:
        """
        Return the state with this revision and position.

        The cost is small if the position is not far from the last known one.
        """
        term = self._known().term
        if abs(position - term.position) > MAX_NEAR_STEPS:
            return state_at(revision, position)
        while term.position < position:
            term = self._term_cache.forward(term)
        while term.position > position:
            term = self._term_cache.backward(term)
        return State(revision, term)
