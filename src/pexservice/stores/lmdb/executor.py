"""
The executor of a store's blocking commits: inline, or in one thread.

Passing a call to a thread and back takes longer than a commit of a fifth of a millisecond.
But a commit that takes ten milliseconds must not block every reader each time.  Only
measuring shows how fast the disk is.  So commits begin inline.  They move to the thread
when they are usually slow, stall often, or hang once, and return when enough of them were
measured short.  A stall now and then, which every shared disk has, costs less than the
thread would.  Each move to the thread doubles the number of short commits that it takes to
return, so such a disk causes fewer and fewer moves.
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

#: Inline, commits that usually take longer block readers for more than the thread costs.
MAX_USUAL_INLINE_SECONDS = 0.001

#: In the thread, a commit up to this long may be a short one: the measured duration
#: contains the wait for the interpreter, up to a millisecond under load.
MAX_SHORT_IN_THREAD_SECONDS = 0.002

#: Inline, a commit longer than this is a stall, or even a hang.
STALL_SECONDS = 0.003
HANG_SECONDS = 0.03

#: More than two stalls in so many commits are too often.
STALL_WINDOW_COMMITS = 256

#: The weight of the newest commit in the usual duration.
NEWEST_COMMIT_WEIGHT = 0.1

#: After how many short commits in the thread commits return inline: the first time, and at
#: most.
MIN_SHORT_COMMITS = 16
MAX_SHORT_COMMITS = 4096


class ExecutorPolicy:
    """
    The decision of an executor: pure, and given measured durations.

    @ivar inline: whether the next call is to run inline.
    """

    def __init__(self) -> None:
        self.inline = True
        self._usual_seconds = 0.0
        # Decreases by one with each commit, so it tells how many stalls there were lately.
        self._stalls = 0
        # The first move to the thread doubles this to MIN_SHORT_COMMITS.
        self._required_short = MIN_SHORT_COMMITS // 2
        self._short_commits = 0

    def record_duration(self, seconds: float) -> None:
        """
        Take the duration of the call that ran where C{inline} said.
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
        # Capped, so that a single stall, however long, does not change the average much.
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
            # Inline for long enough to forget the time in the thread.
            self._short_commits, self._required_short = 0, MIN_SHORT_COMMITS // 2


@define(eq=False)
class CommitExecutor:
    """
    An executor that runs one blocking call at a time, where the policy says.
    """

    reactor: IReactorFromThreads
    _policy: ExecutorPolicy
    _monotonic: Callable[[], float] = time.perf_counter
    # Twisted's thread pool takes twice as long to pass a call over and back.
    _calls: SimpleQueue[Callable[[], None] | None] = field(init=False, factory=SimpleQueue)
    _thread: threading.Thread | None = field(init=False, default=None)

    def run(self, call: Callable[[], T]) -> Deferred[T]:
        """
        Run C{call} inline or in the thread, as the policy says.

        @return: fires in the reactor's thread with the result or the error of C{call};
            it has fired already when C{call} ran inline.
        """

        def measured() -> T:
            started = self._monotonic()
            try:
                return call()
            finally:
                # This is safe in the thread: the caller starts no second call before this
                # one has ended.
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
        Make the queued calls, in the thread, until it is stopped.
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

    def wait(self, call: Callable[[], T]) -> Deferred[T]:
        """
        Run C{call}, which may never return, in a thread that lets the process end.

        @return: fires in the reactor's thread.
        """
        done: Deferred[T] = Deferred()
        target, arguments = self._call, (call, done)
        threading.Thread(target=target, args=arguments, name="wait", daemon=True).start()
        return done

    def stop(self) -> None:
        """
        End the thread, after the call that it may be in.
        """
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None
