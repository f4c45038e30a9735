"""
The executor of a store's blocking commits: inline, or in one exclusive thread.

A hand-over to a thread and back costs more than a commit that takes a fifth of a
millisecond, but a commit that takes ten must not hold up every reader each time.  Only
measuring shows how fast the disk is, so commits begin inline, go to the thread when
they are usually slow, stall often, or hang once, and come back when enough of them
were measured short.  A stall now and then, as every shared disk has, costs less than
the thread would.  Each return to the thread raises the number of short commits that
it takes to come back, so a disk that goes on like that is paid for ever less often.
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

#: Inline, commits that usually take longer would hold up readers for more than the
#: hand-over costs.  Seconds.
SHORT = 0.001

#: In the thread, a commit up to this long may be a short one: what is measured there
#: has the wait for the interpreter in it, up to a millisecond under load.  Seconds.
MAYBE_SHORT = 0.002

#: A commit longer than this, inline, was a stall, and one this long a hang.  Seconds.
STALL = 0.003
HANG = 0.03

#: More than two stalls in so many commits are too often.
OFTEN = 256

#: The weight of the newest commit in the usual duration.
NEWEST = 0.1

#: How many maybe short commits in the thread it takes to come back inline the first time.
PROOF = 16

#: Each return to the thread doubles that number, up to this one.
LONGEST_PROOF = 4096


class ExecutorPolicy:
    """
    The policy of an executor: pure, and fed with measured durations.

    @ivar inline: whether the next call is to run inline.
    """

    def __init__(self) -> None:
        self.inline = True
        self._usual = 0.0
        # Falls by one with each commit, so it tells how many stalls there were lately.
        self._stalls = 0
        # The first move to the thread doubles this to PROOF.
        self._proof = PROOF // 2
        self._short = 0

    def took(self, seconds: float) -> None:
        """
        Take note of how many seconds the call took that was placed by C{inline}.
        """
        if self.inline:
            self._took_inline(seconds)
        elif seconds > MAYBE_SHORT:
            self._short = 0
        else:
            self._short += 1
            if self._short >= self._proof:
                self.inline, self._short, self._usual = True, 0, 0.0

    def _took_inline(self, seconds: float) -> None:
        # Capped, so that a single stall, however long, does not make the usual duration.
        self._usual += NEWEST * (min(seconds, STALL) - self._usual)
        self._stalls = max(0, self._stalls - 1) + (OFTEN if seconds > STALL else 0)
        if seconds > HANG or self._stalls > 2 * OFTEN or self._usual > SHORT:
            self.inline, self._short, self._stalls = False, 0, 0
            self._proof = min(2 * self._proof, LONGEST_PROOF)
            return
        self._short += 1
        if self._short >= LONGEST_PROOF:
            # Inline for long enough to forget the thread.
            self._short, self._proof = 0, PROOF // 2


@define(eq=False)
class CommitExecutor:
    """
    An executor that runs one blocking call at a time, where the policy says.
    """

    _reactor: IReactorFromThreads
    _policy: ExecutorPolicy
    _monotonic: Callable[[], float] = time.perf_counter
    # A queue and a thread of our own: Twisted's thread pool takes twice as long to hand
    # a call over and back.
    _calls: SimpleQueue[Callable[[], None] | None] = field(init=False, factory=SimpleQueue)
    _thread: threading.Thread | None = field(init=False, default=None)

    def run(self, call: Callable[[], T]) -> Deferred[T]:
        """
        Run C{call} inline or in the thread, as the policy says.

        @return: fires in the reactor's thread with what C{call} returned or
            raised; already fired when it ran inline.
        """

        def measured() -> T:
            started = self._monotonic()
            try:
                return call()
            finally:
                # In the thread this is still safe: the caller starts no second
                # call before this one's result has come.
                self._policy.took(self._monotonic() - started)

        if self._policy.inline:
            return execute(measured)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="store")
            self._thread.start()
        done: Deferred[T] = Deferred()
        self._calls.put(lambda: self._tell(done, measured))
        return done

    def _work(self) -> None:
        """
        Make the queued calls, in the thread, until it is stopped.
        """
        while (call := self._calls.get()) is not None:
            call()

    def _tell(self, done: Deferred[T], call: Callable[[], T]) -> None:
        """
        Make C{call} in this thread, and pass its outcome on in the reactor's thread.
        """
        try:
            result = call()
        except BaseException:  # noqa: BLE001 it is not lost
            self._reactor.callFromThread(done.errback, Failure())
        else:
            self._reactor.callFromThread(done.callback, result)

    def wait(self, call: Callable[[], None]) -> Deferred[None]:
        """
        Run C{call}, which may never return, in a thread that lets the process end.

        @return: fires in the reactor's thread.
        """
        done: Deferred[None] = Deferred()
        threading.Thread(
            target=self._tell, args=(done, call), name="wait", daemon=True
        ).start()
        return done

    def stop(self) -> None:
        """
        End the thread, after the call that it may be in.
        """
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None
