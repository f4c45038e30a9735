"""
The common part of the verbs that call a service: the client, and its failures.
"""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pexservice.cli.arguments import token_of, urls_of
from pexservice.cli.outcome import UNKNOWN, UNREACHABLE, WRONG_ARGUMENTS, VerbFailed
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
from pexservice.client.blocking import wait

T = TypeVar("T")


def call(arguments: Namespace, work: Callable[[Cursor], Coroutine[Any, Any, T]]) -> T:
    """
    Run C{work} with a client of the service that C{arguments} name.

    An interrupt, or an exit by a signal's handler, gives up the work, which runs in the
    thread of the client's reactor.

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

    # A shell has the commands that it starts in the background ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return wait(with_cursor)
    except CursorError as error:
        raise _failed(error, repeated=bool(getattr(arguments, "key", None))) from error


def _failed(error: CursorError, *, repeated: bool) -> VerbFailed:
    message, key = str(error), error.key
    if isinstance(error, BadAddress):
        return VerbFailed(message, "failed", WRONG_ARGUMENTS)
    if isinstance(error, Moved):
        at = {"revision": error.state.revision, "position": error.state.position}
        return VerbFailed(f"{message}; nothing was moved", "precondition-failed", 1, at)
    if isinstance(error, Refused):
        return VerbFailed(message, "refused", 1, {"problem": error.name})
    if isinstance(error, OutcomeUnknown) and (error.sent or repeated):
        return VerbFailed(message, "outcome-unknown", UNKNOWN, {"key": key})
    if key is None:
        return VerbFailed(message, "unreachable", UNREACHABLE)
    if not isinstance(error, Unanswered):
        # The server that answered so may have made the step: its key finds that out.
        message = f"{message} (key {key})"
    return VerbFailed(message, "unreachable", UNREACHABLE, {"key": key})


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
