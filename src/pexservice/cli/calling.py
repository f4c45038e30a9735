"""
The common part of the verbs that call a service: the client, and a reactor for it.
"""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.python.failure import Failure

from pexservice.cli.arguments import WRONG_ARGUMENTS, token_of, urls_of
from pexservice.cli.outcome import VerbFailed
from pexservice.client import (
    BadAddress,
    Cursor,
    CursorError,
    Moved,
    OutcomeUnknown,
    Refused,
    State,
    Unanswered,
)

T = TypeVar("T")

#: The exit statuses EX_UNAVAILABLE and EX_TEMPFAIL.
_UNREACHABLE = 69
_UNKNOWN = 75


def call(arguments: Namespace, work: Callable[[Cursor], Coroutine[Any, Any, T]]) -> T:
    """
    Run C{work} with a client of the service that C{arguments} name.

    @raise VerbFailed: a call was not answered as it should have been.
    """

    async def with_cursor() -> T:
        async with Cursor(
            *urls_of(arguments),
            token=token_of(arguments),
            ca_file=arguments.ca_file,
            deadline=arguments.deadline,
        ) as cursor:
            return await work(cursor)

    try:
        return _run(with_cursor)
    except CursorError as error:
        raise _failed(error) from error


def _failed(error: CursorError) -> VerbFailed:
    message, key = str(error), error.key
    if isinstance(error, BadAddress):
        return VerbFailed(message, "failed", WRONG_ARGUMENTS)
    if isinstance(error, Moved):
        at = {"revision": error.state.revision, "position": error.state.position}
        return VerbFailed(f"{message}; nothing was moved", "precondition-failed", 1, at)
    if isinstance(error, Refused):
        return VerbFailed(message, "refused", 1, {"problem": error.name})
    if isinstance(error, OutcomeUnknown):
        return VerbFailed(message, "outcome-unknown", _UNKNOWN, {"key": key})
    if isinstance(error, Unanswered) or key is None:
        return VerbFailed(message, "unreachable", _UNREACHABLE)
    # The server that answered so may have made the step: its key finds that out.
    return VerbFailed(f"{message} (key {key})", "unreachable", _UNREACHABLE, {"key": key})


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Run the reactor until C{work} is done.

    @raise KeyboardInterrupt: SIGINT came first.
    @raise SystemExit: SIGTERM came first.
    """
    from twisted.internet import reactor as installed  # noqa: PLC0415 imports install it

    reactor = cast(Any, installed)
    ended: list[T | Failure] = []
    signals: list[int] = []

    def begin() -> None:
        done = Deferred.fromCoroutine(work())
        done.addBoth(cast(Any, ended.append))
        done.addBoth(lambda _: stop())

    def stop() -> None:
        if cast(IReactorCore, reactor).running:
            reactor.stop()

    def interrupted(number: int, _: object) -> None:
        signals.append(number)
        cast(IReactorFromThreads, reactor).callFromThread(stop)

    before = {
        each: signal.signal(each, interrupted) for each in (signal.SIGINT, signal.SIGTERM)
    }
    reactor.callWhenRunning(begin)
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if not ended:
        raise (
            KeyboardInterrupt
            if signal.SIGINT in signals
            else SystemExit(128 + signal.SIGTERM)
        )
    if isinstance(ended[0], Failure):
        ended[0].raiseException()
    return ended[0]


def told(state: State) -> dict[str, object]:
    """
    Return C{state} as C{--json} shows it: values are strings, as in the service's answers.
    """
    return {
        "revision": state.revision,
        "position": state.position,
        "current": state.digits,
        "previous": state.previous_digits,
        "next": state.next_digits,
    }
