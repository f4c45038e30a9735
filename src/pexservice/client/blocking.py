"""
A client of a service, for programs that do not run Twisted's reactor.

A process has one reactor, which can run only once.  So the first L{BlockingCursor} starts
the reactor in a thread, and the reactor runs until the process ends.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRestartable
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from pexservice.client.cursor import (
    CLOSE_TIMEOUT_SECONDS,
    DEADLINE_SECONDS,
    MAX_IDLE_CONNECTIONS,
    TIMEOUT_SECONDS,
    Cursor,
    new_key,
    unanswered_step,
)
from pexservice.client.errors import OutcomeUnknown, Unanswered
from pexservice.client.state import State, Step

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")

#: How long a call waits before it looks for a signal.  A signal that arrives just before a
#: wait does not end the wait, so a call waits many times instead of once.
POLL_INTERVAL_SECONDS = 0.1

#: How much longer than its timeout a call waits, because the reactor may be late.  An
#: interrupted call waits for its cancellation for this long.
LATE_REACTOR_SECONDS = 2.0

_START_POLL_SECONDS = 0.001
_STOP_TIMEOUT_SECONDS = 5.0


_lock = threading.Lock()
_thread: threading.Thread | None = None
_process_id = 0


def running_reactor() -> IReactorFromThreads:
    """
    Return the reactor.  The first call starts it in a thread.

    @raise RuntimeError: another thread runs the reactor or has run it, or this process was
        forked from a process in which the reactor runs.
    """
    global _process_id, _thread  # noqa: PLW0603 a process has one reactor
    if _process_id not in (0, os.getpid()):
        raise RuntimeError(
            "this process was forked after BlockingCursor was used, and the thread of its"
            " reactor does not exist here; make the first BlockingCursor after the fork, or"
            " start the process with multiprocessing's method spawn"
        )
    from twisted.internet import reactor as installed  # noqa: PLC0415 imports install it

    reactor = cast(Any, installed)
    with _lock:
        if _thread is None:
            if reactor.running:
                raise RuntimeError("a reactor already runs in this process; use Cursor")
            _process_id = os.getpid()
            thread = threading.Thread(
                target=_run, args=(reactor,), name="pexservice.client", daemon=True
            )
            thread.start()
            while not reactor.running:
                thread.join(_START_POLL_SECONDS)
                if not thread.is_alive():
                    raise RuntimeError(
                        "the reactor of this process has run and cannot run again; use"
                        " Cursor while it runs"
                    )
            _thread = thread
            atexit.register(_stop, reactor, thread, _process_id)
    return cast(IReactorFromThreads, reactor)


def _run(reactor: Any) -> None:
    with suppress(ReactorNotRestartable):
        reactor.run(installSignalHandlers=False)


def _stop(reactor: Any, thread: threading.Thread, process_id: int) -> None:
    if process_id == os.getpid():
        reactor.callFromThread(reactor.stop)
        thread.join(_STOP_TIMEOUT_SECONDS)


def wait(
    call: Callable[[], Coroutine[Any, Any, Value] | Deferred[Value]],
    timeout: float = math.inf,
) -> Value:
    """
    Make a call in the reactor's thread, wait for it in this thread, and return its result.

    If an exception such as C{KeyboardInterrupt} ends the wait, the call is cancelled, so it
    sends nothing more.

    @param timeout: how long the call may take, in seconds.  The call itself must end then.
    @raise Unanswered: the call did not end, because another function blocks the reactor.
    """
    reactor = running_reactor()
    calls: list[Deferred[Value]] = []
    results: list[Any] = []
    # This lock is implemented in C.  A class such as threading.Event is written in Python,
    # so an interrupt could leave the lock inside the object locked.
    waiting = threading.Lock()
    waiting.acquire()

    def begin() -> None:
        # A wrong argument raises TypeError.  maybeDeferred passes this exception to end().
        calls.append(maybeDeferred(cast(Any, call)))
        calls[0].addBoth(end)

    def end(result: Value | Failure) -> None:
        results.append(result)
        waiting.release()

    give_up_at = time.monotonic() + timeout + LATE_REACTOR_SECONDS
    try:
        # This line is in the try block: if an interrupt arrives at the end of the line, the
        # call is cancelled, too.
        reactor.callFromThread(begin)
        while not waiting.acquire(timeout=POLL_INTERVAL_SECONDS):
            if time.monotonic() > give_up_at:
                raise Unanswered(  # noqa: TRY301 handled like an interrupt
                    f"no response within {timeout:g} s: the reactor is blocked",
                    maybe_performed=True,
                )
    except (KeyboardInterrupt, SystemExit, Unanswered):
        reactor.callFromThread(lambda: list(map(Deferred.cancel, calls)))
        waiting.acquire(timeout=LATE_REACTOR_SECONDS)
        raise
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return cast(Value, results[0])


def _blocking(
    method: Callable[Concatenate[Cursor, Parameters], Coroutine[Any, Any, Value]],
) -> Callable[Concatenate[BlockingCursor, Parameters], Value]:
    """
    Return a method of L{BlockingCursor} with the parameters and the docstring of C{method}.
    """
    method_name = method.__name__
    cursor_method: Callable[..., Coroutine[Any, Any, Value]] = method

    @wraps(method)
    def call(
        self: BlockingCursor, /, *arguments: Parameters.args, **options: Parameters.kwargs
    ) -> Value:
        parameters: dict[str, Any] = {"deadline": None, **options}
        if parameters["deadline"] is None:
            parameters["deadline"] = self.cursor.deadline
        if method_name != "current" and parameters.get("key") is None:
            parameters["key"] = new_key()
        try:
            return wait(
                lambda: cursor_method(self.cursor, *arguments, **parameters),
                parameters["deadline"],
            )
        except Unanswered as error:
            # For a step, Cursor raises OutcomeUnknown, but wait() raises Unanswered.
            if method_name == "current" or isinstance(error, OutcomeUnknown):
                raise
            raise unanswered_step(method_name, parameters["key"], error) from error

    return call


class BlockingCursor:
    """
    A L{Cursor} whose calls block until they have ended.  Every thread may make calls.

    @ivar cursor: the L{Cursor}, which only functions in the reactor's thread may use.
    """

    def __init__(
        self,
        *urls: str,
        token: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
        ca_file: str | None = None,
        connections: int = MAX_IDLE_CONNECTIONS,
        on_retry: Callable[[str], object] | None = None,
    ) -> None:
        """
        Make a client; see L{Cursor.__init__}.

        @param on_retry: called in the reactor's thread.
        """
        self.cursor = Cursor(
            *urls,
            token=token,
            deadline=deadline,
            timeout=timeout,
            ca_file=ca_file,
            connections=connections,
            on_retry=on_retry,
            reactor=running_reactor(),
        )

    def __repr__(self) -> str:
        return repr(self.cursor).replace("<", "<Blocking", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close all connections, and end all watches; see L{Cursor.close}.
        """
        wait(self.cursor.close, CLOSE_TIMEOUT_SECONDS)

    @property
    def performed_nothing(self) -> bool:
        """
        See L{Cursor.performed_nothing}.
        """
        return self.cursor.performed_nothing

    current = _blocking(Cursor.current)
    next = _blocking(Cursor.next)
    previous = _blocking(Cursor.previous)
    reset = _blocking(Cursor.reset)

    def history(
        self, *, before: int | None = None, limit: int | None = None
    ) -> Iterator[Step]:
        """
        Yield the steps that the service remembers, newest first; see L{Cursor.history}.
        """
        steps = self.cursor.history(before=before, limit=limit)
        return _iterate(steps, self.cursor.deadline)

    def watch(self) -> Iterator[State]:
        """
        Yield the present state, and then newer states; see L{Cursor.watch}.
        """
        return _iterate(self.cursor.watch(), math.inf)


def _iterate(items: AsyncIterator[Value], timeout: float) -> Iterator[Value]:
    async def next_item() -> Value | None:
        return await anext(items, None)

    def close() -> None:
        Deferred.fromCoroutine(cast(AsyncGenerator[Value], items).aclose())

    try:
        while (item := wait(next_item, timeout)) is not None:
            yield item
    finally:
        # Only the reactor's thread may close the iterator.  A forked child has no such
        # thread, and does not own the iterator's connection.
        if _process_id == os.getpid():
            running_reactor().callFromThread(close)
