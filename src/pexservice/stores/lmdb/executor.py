"""
The executor of a store's blocking commits: in the reactor's thread, or in another thread.

A commit on a fast disk takes a fifth of a millisecond, which is less than passing it to a
thread and back.  But a commit of ten milliseconds must not block all clients that read.
Only measuring shows how fast the disk is.

So commits begin inline, in the reactor's thread.  They move to the other thread when they
are usually slow, stall often, or hang once.  They return after enough short commits.  Rare
stalls, as on every shared disk, cost less than the thread would.  Each move to the thread
doubles the number of short commits that are required to return, so a disk with such stalls
causes fewer and fewer moves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

T = TypeVar("T")

#: Commits move to the thread if they usually take longer than this inline.
MAX_USUAL_INLINE_SECONDS = 0.001

#: A commit in the thread counts as short up to this duration, which includes the wait for
#: the interpreter: up to a millisecond under load.
MAX_SHORT_IN_THREAD_SECONDS = 0.002

#: A longer commit inline is a stall, and a still longer one a hang.
STALL_SECONDS = 0.003
HANG_SECONDS = 0.03

#: Commits move to the thread after more than two stalls in this many commits.
STALL_WINDOW_COMMITS = 256

#: The weight of the newest commit in the average duration.
NEWEST_COMMIT_WEIGHT = 0.1

#: How many short commits in the thread are required to return inline: at first, and at
#: most.
MIN_SHORT_COMMITS = 16
MAX_SHORT_COMMITS = 4096


class ExecutorPolicy:
    """
    The policy that decides where commits run, from their measured durations alone.

    @ivar inline: whether the next commit is to run inline.
    """

    def __init__(self) -> None:
        self.inline = True
        self._usual_seconds = 0.0
        # A stall adds STALL_WINDOW_COMMITS, and each commit subtracts one.
        self._stalls = 0
        # The first move to the thread doubles this to MIN_SHORT_COMMITS.
        self._required_short = MIN_SHORT_COMMITS // 2
        self._short_commits = 0

    def record_duration(self, seconds: float) -> None:
        """
        Record the duration of a commit, and decide where the next one runs.
        """
        if self.inline:
            self._record_inline(seconds)
        elif seconds > MAX_SHORT_IN_THREAD_SECONDS:
            self._short_commits = 0
        else:
            self._short_commits += 1
            if self._short_commits >= self._required_short:
                self.inline, self._short_commits, self._usual_seconds = True, 0, 0.0

    def _record_inline(self, seconds: float) -> None:
        # A single stall, however long, must not change the average much.
        capped = min(seconds, STALL_SECONDS)
        self._usual_seconds += NEWEST_COMMIT_WEIGHT * (capped - self._usual_seconds)
        self._stalls = max(0, self._stalls - 1)
        if seconds > STALL_SECONDS:
            self._stalls += STALL_WINDOW_COMMITS
        if (
            seconds > HANG_SECONDS
            or self._stalls > 2 * STALL_WINDOW_COMMITS
            or self._usual_seconds > MAX_USUAL_INLINE_SECONDS
        ):
            self.inline, self._short_commits, self._stalls = False, 0, 0
            self._required_short = min(2 * self._required_short, MAX_SHORT_COMMITS)
            return
        self._short_commits += 1
        if self._short_commits >= MAX_SHORT_COMMITS:
            # So many commits ran inline that the earlier moves no longer count.
            self._short_commits, self._required_short = 0, MIN_SHORT_COMMITS // 2


@define(eq=False)
class CommitExecutor:
    """
    An executor that runs one blocking call at a time, where its policy decides.
    """

    reactor: IReactorFromThreads
    _policy: ExecutorPolicy
    _monotonic: Callable[[], float] = time.perf_counter
    # Twisted's thread pool takes twice as long to pass a call to a thread and back.
    _calls: SimpleQueue[Callable[[], None] | None] = field(init=False, factory=SimpleQueue)
    _thread: threading.Thread | None = field(init=False, default=None)

    def run(self, call: Callable[[], T]) -> Deferred[T]:
        """
        Run C{call} inline or in the thread.

        @return: fires in the reactor's thread with the result or the error of C{call};
            it has fired already when C{call} ran inline.
        """

        def measured() -> T:
            started = self._monotonic()
            try:
                return call()
            finally:
                # No lock is needed in the thread: only one call runs at a time.
                self._policy.record_duration(self._monotonic() - started)

        if self._policy.inline:
            return execute(measured)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="store")
            self._thread.start()
        done: Deferred[T] = Deferred()
        self._calls.put(lambda: self._call(measured, done))
        return done

    def _work(self) -> None:
        """
        Make the queued calls, in the thread, until C{None} is queued.
        """
        while (call := self._calls.get()) is not None:
            call()

    def _call(self, call: Callable[[], T], done: Deferred[T]) -> None:
        """
        Make C{call} in this thread, and fire C{done} in the reactor's thread.
        """
        try:
            result = call()
        except BaseException:  # noqa: BLE001 it is not lost
            self.reactor.callFromThread(done.errback, Failure())
        else:
            self.reactor.callFromThread(done.callback, result)

    def run_apart(self, call: Callable[[], T]) -> Deferred[T]:
        """
        Run C{call} in a thread of its own, which does not keep the process from ending.

        C{call} may block for ever.

        @return: fires in the reactor's thread.
        """
        done: Deferred[T] = Deferred()
        target, arguments = self._call, (call, done)
        threading.Thread(target=target, args=arguments, name="wait", daemon=True).start()
        return done

    def stop(self) -> None:
        """
        End the thread, after the call that it may be making.
        """
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None
