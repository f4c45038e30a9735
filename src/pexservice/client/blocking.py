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
from twisted.internet.threads import blockingCallFromThread

from pexservice.client.cursor import Cursor
from pexservice.client.state import State, Step

T = TypeVar("T")

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

        def begin() -> Deferred[T]:
            calls.append(Deferred.fromCoroutine(call()))
            return calls[0]

        try:
            result: T = blockingCallFromThread(self._reactor, cast(Any, begin))
        except KeyboardInterrupt:
            self._reactor.callFromThread(lambda: list(map(Deferred.cancel, calls)))
            raise
        return result

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> list[T]:
            async for item in items:
                return [item]
            return []

        while found := self._wait(following):
            yield found[0]
