"""
The verbs that call a service: C{current}, the three steps, C{history}, C{watch}, C{load}.
"""

from __future__ import annotations

import json
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pexservice.cli.arguments import add_service, number, seconds, token_of, urls_of
from pexservice.cli.output import (
    UNKNOWN,
    UNREACHABLE,
    WRONG_ARGUMENTS,
    ProgressBar,
    Result,
    VerbFailed,
    write,
)

if TYPE_CHECKING:
    from pexservice.client import BlockingCursor, Cursor, CursorError, State

#: C{watch} abbreviates a longer value to this many digits at each end.
_MAX_DIGITS = 40
_END_DIGITS = 12


def current(arguments: Namespace) -> Result:
    with _service(arguments) as cursor:
        state = cursor.current()
    return Result(state.digits, {"outcome": "read", **_object_of(state)})


def add_step_arguments(parser: ArgumentParser) -> None:
    add_service(parser)
    parser.add_argument(
        "--if-revision",
        metavar="N",
        type=number(0),
        help="only if the cursor is at this revision",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="the key of a step whose outcome is unknown [default: a new key]",
    )


def step(word: str) -> Callable[[Namespace], Result]:
    """
    Return the function that runs the verb C{word}, which makes a step.
    """

    def run(arguments: Namespace) -> Result:
        from pexservice.client.cursor import new_key

        key = arguments.key or new_key()
        try:
            with _service(arguments) as cursor:
                make_step = getattr(cursor, word)
                state = make_step(if_revision=arguments.if_revision, key=key)
        except (KeyboardInterrupt, SystemExit) as end:
            raise VerbFailed(
                f"interrupted: {word} may or may not have been made; repeat it with"
                f" --key {key}",
                "outcome-unknown",
                128 + (signal.SIGTERM if isinstance(end, SystemExit) else signal.SIGINT),
                {"key": key},
            ) from end
        found = {"outcome": "moved", **_object_of(state), "replayed": state.replayed}
        return Result(state.digits, found)

    return run


def add_history_arguments(parser: ArgumentParser) -> None:
    add_service(parser)
    parser.add_argument(
        "--limit",
        metavar="N",
        type=number(0),
        default=100,
        help="how many steps at most [default: 100]",
    )
    parser.add_argument(
        "--before", metavar="N", type=number(0), help="only steps before this revision"
    )


def history(arguments: Namespace) -> None:
    from attrs import asdict

    with _service(arguments) as cursor:
        for row in cursor.history(before=arguments.before, limit=arguments.limit):
            time = row.time.isoformat(timespec="microseconds").replace("+00:00", "Z")
            if arguments.json:
                write(json.dumps({**asdict(row), "time": time}))
            else:
                write(
                    f"{time} revision {row.revision} {row.transition}"
                    f" to position {row.position}"
                )


def watch(arguments: Namespace) -> None:
    with _service(arguments) as cursor:
        for state in cursor.watch():
            if arguments.json:
                write(json.dumps(_object_of(state)))
            else:
                digits = state.digits
                if len(digits) > _MAX_DIGITS:
                    count = len(digits)
                    digits = f"{digits[:_END_DIGITS]}...{digits[-_END_DIGITS:]}"
                    digits = f"{digits} ({count} digits)"
                write(f"revision {state.revision} position {state.position}: {digits}")


def add_load_arguments(parser: ArgumentParser) -> None:
    add_service(parser)
    parser.add_argument(
        "--connections",
        metavar="N",
        type=number(1, 1000),
        default=10,
        help="how many steps wait for a response at a time [default: 10]",
    )
    parser.add_argument(
        "--seconds",
        metavar="SECONDS",
        type=seconds,
        default=10.0,
        help="how long new steps begin [default: 10]",
    )


def load(arguments: Namespace) -> Result:
    from attrs import asdict

    from pexservice.cli.load import Report, make_load

    async def run(cursor: Cursor) -> Report:
        # Drawn and removed in one thread, so that an interrupt leaves no bar behind.
        with ProgressBar() as bar:
            return await make_load(
                cursor, arguments.connections, arguments.seconds, bar.show
            )

    with _failing_as_a_verb(arguments):
        report = _call(arguments, run)
    if report.lost or report.unknown:
        raise VerbFailed(
            report.text(),
            "lost" if report.lost else "outcome-unknown",
            1 if report.lost else UNKNOWN,
            asdict(report),
        )
    return Result(report.text(), {"outcome": "done", **asdict(report)})


def _call(arguments: Namespace, work: Callable[[Cursor], Any]) -> Any:
    """
    Run C{work} with a cursor in the reactor's thread.
    """
    from pexservice.client import Cursor
    from pexservice.client.blocking import wait

    async def with_cursor() -> Any:
        async with Cursor(*urls_of(arguments), **_options(arguments)) as cursor:
            return await work(cursor)

    return wait(with_cursor)


@contextmanager
def _service(arguments: Namespace) -> Iterator[BlockingCursor]:
    """
    Provide a client of the service that C{arguments} name.
    """
    from pexservice.client import BlockingCursor

    with (
        _failing_as_a_verb(arguments),
        BlockingCursor(*urls_of(arguments), **_options(arguments)) as cursor,
    ):
        yield cursor


@contextmanager
def _failing_as_a_verb(arguments: Namespace) -> Iterator[None]:
    """
    Turn an error of the client into L{VerbFailed}.
    """
    from pexservice.client import CursorError

    # A shell makes the commands that it starts in the background ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except CursorError as error:
        key = getattr(arguments, "key", None)
        raise _failure(error, repeated=key is not None) from error


def _options(arguments: Namespace) -> dict[str, Any]:
    deadline = arguments.deadline
    notices: list[str] = []

    def on_retry(reason: str) -> None:
        if not notices and sys.stderr.isatty():
            notices.append(reason)
            sys.stderr.write(f"pexctl: {reason}; retrying for {deadline:g} s\n")

    return {
        "token": token_of(arguments),
        "ca_file": arguments.ca_file,
        "deadline": deadline,
        "on_retry": on_retry,
    }


def _failure(error: CursorError, *, repeated: bool) -> VerbFailed:
    """
    Return the failure of a verb for an error of the client.

    @param repeated: whether the operator repeats an earlier step, whose outcome stays
        unknown even if this request was not sent.
    """
    from pexservice.client import BadAddress, Moved, OutcomeUnknown, Refused, Unanswered

    message, key = str(error), error.key
    if isinstance(error, BadAddress):
        return VerbFailed(message, "failed", WRONG_ARGUMENTS)
    if isinstance(error, Moved):
        at = {"revision": error.state.revision, "position": error.state.position}
        return VerbFailed(f"{message}; no step was made", "precondition-failed", 1, at)
    if isinstance(error, Refused):
        return VerbFailed(message, "refused", 1, {"problem": error.name})
    if isinstance(error, OutcomeUnknown) and (error.sent or repeated):
        return VerbFailed(message, "outcome-unknown", UNKNOWN, {"key": key})
    if key is None:
        return VerbFailed(message, "unreachable", UNREACHABLE)
    if not isinstance(error, Unanswered):
        # The server that sent this response may have made the step: its key finds out.
        message = f"{message} (key {key})"
    return VerbFailed(message, "unreachable", UNREACHABLE, {"key": key})


def _object_of(state: State) -> dict[str, object]:
    """
    Return C{state} as C{--json} shows it: values are strings, as in the HTTP API.
    """
    return {
        "revision": state.revision,
        "position": state.position,
        "current": state.digits,
        "previous": state.previous_digits,
        "next": state.next_digits,
    }
