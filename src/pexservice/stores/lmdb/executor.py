"""
The executor of a store's blocking commits: in the reactor's thread, or in another thread.

A commit on a fast disk takes a fifth of a millisecond.  Passing a call to another thread
and its result back takes longer.  But on a slow disk, a commit may take ten milliseconds,
and must not block all clients that read.  The executor does not know the disk, so it
measures how long commits take.

The first commits run I{inline}, which means in the reactor's thread.  The executor moves
the commits to the other thread if they are usually slow, if they stall often, or if one
commit hangs.  Every shared disk stalls now and then.  Such rare stalls cost less time than
to pass every commit to the thread.

The executor moves the commits back after a number of short commits in a row.  This number
doubles with each move to the thread.  So on a disk that is sometimes slow, the moves become
rare.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

T = TypeVar("T")

#: Commits move to the thread if the average inline commit takes longer than this.
MAX_USUAL_INLINE_SECONDS = 0.001

#: A commit in the thread is short if it takes at most this long.  This includes the wait
#: for the interpreter lock, which takes up to a millisecond under load.
MAX_SHORT_IN_THREAD_SECONDS = 0.002

#: An inline commit that takes longer than this is a stall.
STALL_SECONDS = 0.003

#: An inline commit that takes longer than this hangs.
HANG_SECONDS = 0.03

#: Commits move to the thread after more than two stalls in about this many commits.
STALL_WINDOW_COMMITS = 256

#: The weight of the newest commit in the average duration.
NEWEST_COMMIT_WEIGHT = 0.1

#: After this many short commits in a row in the thread, the commits run inline again.  The
#: number begins at the first value, and doubles up to the second one.
MIN_SHORT_COMMITS = 16
MAX_SHORT_COMMITS = 4096


class ExecutorPolicy:
    """
    The policy that decides where the next commit runs, by the durations of earlier commits.

    @ivar inline: whether the next commit runs inline.
    """

    def __init__(self) -> None:
        self.inline = True
        self._usual_seconds = 0.0
        # A stall adds STALL_WINDOW_COMMITS, and each commit subtracts 1.
        self._stalls = 0
        # The first move to the thread doubles this number to MIN_SHORT_COMMITS.
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
        # The duration is capped, so that a single stall does not change the average much.
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
            # After so many inline commits, forget how often the commits moved before.
            self._short_commits, self._required_short = 0, MIN_SHORT_COMMITS // 2


@define(eq=False)
class CommitExecutor:
    """
    An executor that runs one blocking call at a time, where its policy decides.
    """

    reactor: IReactorFromThreads
    _policy: ExecutorPolicy = Factory(ExecutorPolicy)
    _monotonic: Callable[[], float] = time.perf_counter
    # Twisted's thread pool takes twice as long to pass a call to a thread and back.
    _calls: SimpleQueue[Callable[[], None] | None] = field(init=False, factory=SimpleQueue)
    _thread: threading.Thread | None = field(init=False, default=None)

    def run(self, call: Callable[[], T]) -> Deferred[T]:
        """
        Run C{call} inline or in the thread.

        @return: fires in the reactor's thread with the result or the error of C{call}.  If
            C{call} ran inline, it has fired already.
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
            self._thread = threading.Thread(target=self._run_queued_calls, name="store")
            self._thread.start()
        done: Deferred[T] = Deferred()
        self._calls.put(lambda: self._run_and_fire(measured, done))
        return done

    def _run_queued_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _run_and_fire(self, call: Callable[[], T], done: Deferred[T]) -> None:
        try:
            result = call()
        except BaseException:  # noqa: BLE001 passed to done
            self.reactor.callFromThread(done.errback, Failure())
        else:
            self.reactor.callFromThread(done.callback, result)

    def run_in_new_thread(self, call: Callable[[], T]) -> Deferred[T]:
        """
        Run C{call}, which may take minutes or block for ever, in a new daemon thread.

        A daemon thread does not prevent the end of the process.

        @return: fires in the reactor's thread with the result or the error of C{call}.
        """
        done: Deferred[T] = Deferred()
        target, arguments = self._run_and_fire, (call, done)
        threading.Thread(target=target, args=arguments, name="wait", daemon=True).start()
        return done

    def stop(self) -> None:
        """
        Wait until the thread has run the queued calls, and end it.
        """
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None
