"""
Fakes that implement the interfaces of the service.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from zope.interface import implementer

from pexservice.core.cursor import INITIAL, Cursor, Transition, position_after
from pexservice.stores.errors import Refusal
from pexservice.stores.interface import (
    Batch,
    HistoryEntry,
    IExclusiveStore,
    OldStateReader,
    Space,
)
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.remembered_keys import KEPT_KEYS, RememberedKeys

T = TypeVar("T")

#: Above the revision of every store.
ABOVE_ALL = 2**63


@implementer(IReactorFromThreads)
class Mailbox(Clock):
    """
    A fake of the reactor that keeps the calls from other threads for the test.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], object]] = []
        self._arrived = threading.Semaphore(0)

    def callFromThread(
        self, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        self._calls.append(lambda: callable(*args, **kwargs))
        self._arrived.release()

    def take(self) -> None:
        """
        Wait for a call from another thread, and run it.
        """
        assert self._arrived.acquire(timeout=60)
        self._calls.pop(0)()


class InlineExecutor(CommitExecutor):
    """
    An executor that makes every call in the calling thread.
    """

    def run(self, call: Callable[[], T]) -> Deferred[T]:
        return execute(call)

    run_in_new_thread = run


def inline() -> InlineExecutor:
    return InlineExecutor(Mailbox())


class Turns(Clock):
    """
    A clock that runs one iteration of the event loop at a time.

    C{Clock.advance} would never return if a call schedules itself again for the next
    iteration.
    """

    def turn(self, seconds: float = 0.0) -> bool:
        """
        Advance the clock by C{seconds}, and run the calls that are due by then.

        A call that one of these schedules waits for the next turn.

        @return: whether a call was due.
        """
        self.rightNow += seconds
        due = [call for call in self.calls if call.getTime() <= self.rightNow]
        for call in due:
            if call in self.calls:
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        return bool(due)


def collected(deferred: Deferred[Any]) -> list[Any]:
    """
    Return a list that gets the result of C{deferred}, or its error.
    """
    outcomes: list[Any] = []
    deferred.addCallbacks(outcomes.append, lambda f: outcomes.append(f.value))
    return outcomes


def now(deferred: Deferred[T]) -> T:
    """
    Return the result of a fired Deferred, or raise its error.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    deferred.addCallbacks(results.append, lambda f: failures.append(f.value))
    if failures:
        raise failures[0]
    (result,) = results
    return result


def replay(batch: Batch) -> Iterator[HistoryEntry]:
    """
    Yield the rows of C{batch}, oldest first.
    """
    before, position = batch.before
    for revision, code in enumerate(batch.transitions, before + 1):
        transition = Transition(bytes((code,)))
        position = position_after(position, transition)
        yield HistoryEntry(revision, position, transition, batch.time_ns)


@implementer(IExclusiveStore)
@define(eq=False)
class MemoryStore:
    """
    A store in memory.

    A test can hold its commits back, and finish them one at a time.

    @ivar held: while true, a commit waits for L{finish}.
    @ivar batches: the committed batches.
    @ivar under_way: the batch of the commit that is held back.
    """

    kept_keys: int = KEPT_KEYS
    journal: int = 100_000
    held: bool = False
    failure: Exception | None = None
    batches: list[Batch] = field(factory=list)
    cursor: Cursor = INITIAL.cursor
    rows: list[HistoryEntry] = field(factory=list)
    closed: bool = False
    shortage: Refusal | None = None
    remembered_keys: RememberedKeys = field(init=False, factory=RememberedKeys)
    under_way: Batch | None = None
    _done: Deferred[None] = field(init=False)

    def open(self, _: Callable[[], object] | None = None) -> Deferred[Cursor]:
        self.remembered_keys = RememberedKeys(self.kept_keys)
        for batch in self.batches:
            self.remembered_keys.add(batch.keys)
        return succeed(self.cursor)

    def commit(self, batch: Batch) -> Deferred[None]:
        assert self.under_way is None, "a commit while another is under way"
        assert batch.transitions, "an empty batch"
        if self.held:
            self.under_way, self._done = batch, Deferred()
            return self._done
        if self.failure is not None:
            return fail(self.failure)
        self._take(batch)
        return succeed(None)

    def _take(self, batch: Batch) -> None:
        rows = list(replay(batch))
        assert batch.before == self.cursor
        self.cursor = batch.after
        assert rows[-1][:2] == self.cursor
        self.batches.append(batch)
        self.rows = [*self.rows, *rows][-self.journal :]

    def finish(self, failure: Exception | None = None) -> None:
        """
        Finish the commit that is held back.
        """
        batch, self.under_way = self.under_way, None
        assert batch is not None
        if failure is None:
            self._take(batch)
            self._done.callback(None)
        else:
            self._done.errback(failure)

    def commit_refusal(self) -> Refusal | None:
        return self.shortage

    def space(self) -> Space | None:
        return None

    def oldest_reader(self) -> OldStateReader | None:
        return None

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        rows = [row for row in self.rows if row.revision < before]
        return succeed(rows[::-1][:limit])

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)
