"""
The cursor for scripts that have no reactor.

A process has one reactor, which runs once: here in a thread of its own, from the first
cursor on until the process ends.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRestartable
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.python.failure import Failure

from pexservice.client.cursor import Cursor
from pexservice.client.state import State, Step

T = TypeVar("T")

#: The longest single wait, in seconds: a signal that comes just before a wait begins does
#: not end that wait, so a call waits many times, briefly.
LONGEST_WAIT = 0.1

#: How often a new thread is asked whether its reactor runs, in seconds.
_ASKED_AGAIN = 0.001

_lock = threading.Lock()
_thread: threading.Thread | None = None


def running_reactor() -> IReactorFromThreads:
    """
    Return the reactor, which runs in a thread from now on.

    @raise RuntimeError: the program runs the reactor elsewhere already, or has run it.
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
            thread = threading.Thread(
                target=_run, args=(reactor,), name="pexservice.client", daemon=True
            )
            thread.start()
            while not reactor.running:
                thread.join(_ASKED_AGAIN)
                if not thread.is_alive():
                    raise RuntimeError(
                        "the reactor of this process has run, and none runs twice;"
                        " use Cursor while it runs"
                    )
            _thread = thread
            atexit.register(_stop, reactor, thread)
    return cast(IReactorFromThreads, reactor)


def _run(reactor: Any) -> None:
    with suppress(ReactorNotRestartable):
        reactor.run(installSignalHandlers=False)


def _stop(reactor: Any, thread: threading.Thread) -> None:
    reactor.callFromThread(cast(IReactorCore, reactor).stop)
    thread.join()


def wait(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Make a call in the reactor's thread, wait for it in this one, and return its result.

    An interrupted wait gives up the call, which is then sent no more.
    """
    reactor = running_reactor()
    calls: list[Deferred[T]] = []
    results: list[Any] = []
    # A bare lock: a class written in Python could be interrupted while it holds a lock.
    waiting = threading.Lock()
    waiting.acquire()

    def begin() -> None:
        calls.append(Deferred.fromCoroutine(call()))
        calls[0].addBoth(end)

    def end(result: T | Failure) -> None:
        results.append(result)
        waiting.release()

    reactor.callFromThread(begin)
    try:
        while not waiting.acquire(timeout=LONGEST_WAIT):
            pass
    except (KeyboardInterrupt, SystemExit):
        reactor.callFromThread(lambda: list(map(Deferred.cancel, calls)))
        raise
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    return cast(T, result)


class BlockingCursor:
    """
    A L{Cursor} whose calls return when they are answered; any thread may make them.
    """

    def __init__(self, *urls: str, **options: Any) -> None:
        """
        Make a cursor with any options of L{Cursor} but C{reactor} and C{agent}.
        """

        async def make() -> Cursor:
            return Cursor(*urls, **options)

        self._cursor: Cursor = wait(make)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close all connections, and end all watches; see L{Cursor.close}.
        """
        wait(self._cursor.close)

    def current(self, **options: Any) -> State:
        """
        Return the state of the cursor; see L{Cursor.current}.
        """
        return wait(lambda: self._cursor.current(**options))

    def next(self, **options: Any) -> State:
        """
        Move from position n to n + 1, once; see L{Cursor.next}.
        """
        return wait(lambda: self._cursor.next(**options))

    def previous(self, **options: Any) -> State:
        """
        Move from position n to n - 1, or stay at 0, once; see L{Cursor.previous}.
        """
        return wait(lambda: self._cursor.previous(**options))

    def reset(self, **options: Any) -> State:
        """
        Move to position 0, once; see L{Cursor.reset}.
        """
        return wait(lambda: self._cursor.reset(**options))

    def history(self, **options: Any) -> Iterator[Step]:
        """
        Return the steps that were made, newest first; see L{Cursor.history}.
        """
        return self._each(self._cursor.history(**options))

    def watch(self) -> Iterator[State]:
        """
        Return the present state, and then each that is seen; see L{Cursor.watch}.
        """
        return self._each(self._cursor.watch())

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> list[T]:
            async for item in items:
                return [item]
            return []

        while found := wait(following):
            yield found[0]
