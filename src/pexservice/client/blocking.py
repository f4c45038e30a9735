"""
The cursor for scripts that have no reactor.

There is one reactor in a process, and it runs once: here in a thread of its own, from the
first cursor on until the process ends.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.python.failure import Failure

from pexservice.client.cursor import Cursor
from pexservice.client.state import State, Step

T = TypeVar("T")

#: A signal that comes just before a wait begins does not end it, so there is one wait after
#: the other.  Seconds.
LONGEST_WAIT = 0.1

_lock = threading.Lock()
_thread: threading.Thread | None = None


def running_reactor() -> IReactorFromThreads:
    """
    Return the reactor, which runs in a thread from now on.

    @raise RuntimeError: it is the caller's: it runs, or has run, elsewhere.
    """
    global _thread  # noqa: PLW0603 a process has one reactor
    from twisted.internet import reactor as installed  # noqa: PLC0415 imports install it

    reactor = cast(Any, installed)
    with _lock:
        if _thread is None:
            if reactor.running:
                raise RuntimeError(
                    "a reactor runs in this process already; use Cursor there"
                )
            _thread = threading.Thread(
                target=reactor.run,
                kwargs={"installSignalHandlers": False},
                name="pexservice.client",
                daemon=True,
            )
            _thread.start()
            atexit.register(_stop, reactor, _thread)
    return cast(IReactorFromThreads, reactor)


def _stop(reactor: Any, thread: threading.Thread) -> None:
    reactor.callFromThread(cast(IReactorCore, reactor).stop)
    thread.join()


class BlockingCursor:
    """
    A L{Cursor} whose calls return when they are answered; any thread may make them.
    """

    def __init__(self, *urls: str, **options: Any) -> None:
        """
        See L{Cursor}; all of its options but C{reactor} and C{agent}.
        """
        self._reactor = running_reactor()

        async def make() -> Cursor:
            return Cursor(*urls, **options)

        self._cursor: Cursor = self._wait(make)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        See L{Cursor.close}.
        """
        self._wait(self._cursor.close)

    def current(self, **options: Any) -> State:
        """
        See L{Cursor.current}.
        """
        return self._wait(lambda: self._cursor.current(**options))

    def next(self, **options: Any) -> State:
        """
        See L{Cursor.next}.
        """
        return self._wait(lambda: self._cursor.next(**options))

    def previous(self, **options: Any) -> State:
        """
        See L{Cursor.previous}.
        """
        return self._wait(lambda: self._cursor.previous(**options))

    def reset(self, **options: Any) -> State:
        """
        See L{Cursor.reset}.
        """
        return self._wait(lambda: self._cursor.reset(**options))

    def history(self, **options: Any) -> Iterator[Step]:
        """
        See L{Cursor.history}.
        """
        return self._each(self._cursor.history(**options))

    def watch(self) -> Iterator[State]:
        """
        See L{Cursor.watch}.
        """
        return self._each(self._cursor.watch())

    def _wait(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """
        Make a call in the reactor's thread, and wait for what it ends with here.

        An interrupted wait gives up the call: it is sent no more.
        """
        calls: list[Deferred[T]] = []
        results: list[Any] = []
        # A bare lock: what is written in Python could be interrupted while it holds one.
        waiting = threading.Lock()
        waiting.acquire()

        def begin() -> None:
            calls.append(Deferred.fromCoroutine(call()))
            calls[0].addBoth(end)

        def end(result: T | Failure) -> None:
            results.append(result)
            waiting.release()

        self._reactor.callFromThread(begin)
        try:
            while not waiting.acquire(timeout=LONGEST_WAIT):
                pass
        except KeyboardInterrupt:
            self._reactor.callFromThread(lambda: list(map(Deferred.cancel, calls)))
            raise
        result = results[0]
        if isinstance(result, Failure):
            result.raiseException()
        return cast(T, result)

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> list[T]:
            async for item in items:
                return [item]
            return []

        while found := self._wait(following):
            yield found[0]
