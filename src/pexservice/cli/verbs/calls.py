"""
The verbs that call a service: steps, C{current}, C{history}, C{watch} and C{load}.
"""

from __future__ import annotations

import math
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import asdict

from pexservice.cli.output import (
    WRONG_ARGUMENTS,
    ProgressBar,
    Result,
    VerbFailed,
    write_error,
)
from pexservice.cli.verb import (
    CALL_STATUSES,
    NODES,
    SERVICE,
    STEP_STATUSES,
    Results,
    argument,
    duration,
    token_of,
    urls_of,
    verb,
)
from pexservice.settings.option import number

if TYPE_CHECKING:
    from pexservice.cli.load import Report
    from pexservice.client import BlockingCursor, Cursor, CursorError, State

#: If a value has more than C{_MAX_DIGITS}, C{watch} prints only the first and the last
#: C{_END_DIGITS}.
_MAX_DIGITS = 40
_END_DIGITS = 12

_STEP_ARGUMENTS = (
    *SERVICE,
    argument("--if-revision", "N", "only if the cursor is at this revision", number(0)),
    argument(
        "--key", "KEY", "the key of a step whose outcome is unknown [default: a new key]"
    ),
)


@verb(
    "current",
    CALL_STATUSES,
    SERVICE,
    "pexctl current",
    "pexctl current --url https://pex.example.org --json",
)
def current(arguments: Namespace) -> Results:
    """
    Print the value at the cursor.

    The cursor does not move.
    """
    with _service(arguments) as cursor:
        state = cursor.current()
    yield Result(state.digits, {"outcome": "read", **_object_of(state)})


@verb(
    "next",
    STEP_STATUSES,
    _STEP_ARGUMENTS,
    "pexctl next",
    "pexctl next --if-revision 41 --json",
)
def next_(arguments: Namespace) -> Results:
    """
    Move to the next position and print its value.

    The request is repeated with the same key until the service responds or the deadline
    ends. The step is never made twice.
    """
    yield _step(arguments, "next")


@verb("previous", STEP_STATUSES, _STEP_ARGUMENTS, "pexctl previous")
def previous(arguments: Namespace) -> Results:
    """
    Move to the previous position, but not below 0, and print its value.

    The request is repeated with the same key until the service responds or the deadline
    ends. The step is never made twice.
    """
    yield _step(arguments, "previous")


@verb("reset", STEP_STATUSES, _STEP_ARGUMENTS, "pexctl reset --if-revision 41")
def reset(arguments: Namespace) -> Results:
    """
    Move to position 0 and print its value.

    The request is repeated with the same key until the service responds or the deadline
    ends. The step is never made twice.
    """
    yield _step(arguments, "reset")


def _step(arguments: Namespace, step_name: str) -> Result:
    from pexservice.client.cursor import new_key

    key = new_key() if arguments.key is None else arguments.key
    cursor = None
    try:
        with _service(arguments) as cursor:
            state = getattr(cursor, step_name)(if_revision=arguments.if_revision, key=key)
    except (KeyboardInterrupt, SystemExit) as interrupt:
        outcome, message = "outcome-unknown", f"it is unknown whether {step_name} was made"
        message += f"; to find out, repeat it with --key {key}"
        if arguments.key is None and (cursor is None or cursor.performed_nothing):
            outcome, message = "unreachable", f"{step_name} was not made"
        raise _interrupted(message, outcome, {"key": key}, interrupt) from None
    fields = {"outcome": "moved", **_object_of(state), "replayed": state.replayed}
    return Result(state.digits, fields)


def _interrupted(
    message: str, outcome: str, fields: dict[str, object], interrupt: BaseException
) -> VerbFailed:
    # SIGTERM raises SystemExit with an exit status, and Ctrl-C raises KeyboardInterrupt.
    status = getattr(interrupt, "code", 128 + signal.SIGINT)
    return VerbFailed(f"interrupted: {message}", outcome, fields, status)


@verb(
    "history",
    CALL_STATUSES,
    [
        *SERVICE,
        argument("--limit", "N", "how many steps at most", number(1), 100),
        argument("--before", "N", "only steps before this revision", number(0)),
    ],
    "pexctl history --limit 3",
    "pexctl history --before 41",
)
def history(arguments: Namespace) -> Results:
    """
    List the latest steps, newest first.

    With --json each step is an object on its own line.
    """
    with _service(arguments) as cursor:
        for step in cursor.history(before=arguments.before, limit=arguments.limit):
            time = step.time.isoformat(timespec="microseconds").replace("+00:00", "Z")
            line = f"{time} revision {step.revision} {step.transition}"
            line = f"{line} to position {step.position}"
            yield Result(line, {**asdict(step), "time": time})


@verb("watch", CALL_STATUSES, NODES, "pexctl watch", "pexctl watch --json")
def watch(arguments: Namespace) -> Results:
    """
    Print the cursor whenever it has moved, until Ctrl-C.

    It prints at most ten lines per second, each with a higher revision. With --json each
    line is an object.
    """
    with _service(arguments) as cursor:
        for state in cursor.watch():
            digits = state.digits
            if len(digits) > _MAX_DIGITS:
                ends = f"{digits[:_END_DIGITS]}...{digits[-_END_DIGITS:]}"
                digits = f"{ends} ({len(digits)} digits)"
            line = f"revision {state.revision} position {state.position}: {digits}"
            yield Result(line, _object_of(state))


@verb(
    "load",
    STEP_STATUSES,
    [
        *SERVICE,
        argument("--connections", "N", "how many steps at a time", number(1, 1000), 10),
        argument("--seconds", "SECONDS", "how long to begin new steps", duration, 10),
    ],
    "pexctl load --seconds 3 --connections 16",
)
def load(arguments: Namespace) -> Results:
    """
    Make steps as fast as possible, and compare them with the history.

    The steps are real: the cursor moves.
    """
    from pexservice.cli.load import Load
    from pexservice.client.blocking import wait

    bar = ProgressBar()
    running = Load(arguments.seconds, bar.show)

    async def run(cursor: Cursor) -> Report:
        # The thread that draws the bar also removes it.  So after an interrupt, the bar is
        # removed and not drawn again.
        with bar:
            return await running.run(cursor, arguments.connections)

    reason, outcome = "", "unreachable"
    try:
        with _service(arguments) as service:
            report = wait(lambda: run(service.cursor))
    except (KeyboardInterrupt, SystemExit) as interrupt:
        if running.start is None:
            raise
        report = running.report()
        raise _interrupted(
            report.text(), "outcome-unknown", asdict(report), interrupt
        ) from None
    except VerbFailed as failure:
        report = running.report()
        if not report.answered:
            raise
        reason, outcome = f"{failure}\n", failure.outcome
    if not (reason or report.lost or report.unknown or report.not_made):
        yield Result(report.text(), {"outcome": "done", **asdict(report)})
        return
    if report.lost:
        outcome = "lost"
    elif report.unknown:
        outcome = "outcome-unknown"
    elif report.answered and outcome == "unreachable":
        # The exit status of "unreachable" would mean that no step was made.
        outcome = "failed"
    raise VerbFailed(reason + report.text(), outcome, asdict(report))


@contextmanager
def _service(arguments: Namespace) -> Iterator[BlockingCursor]:
    """
    Provide a client of the service that C{arguments} name.

    @raise VerbFailed: the client has raised an error.
    """
    from pexservice.client import BlockingCursor, CursorError

    # A shell that starts this process in the background makes it ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # C{watch} has no deadline and retries for ever, so it always says why it retries.
    deadline = getattr(arguments, "deadline", math.inf)
    notices: list[str] = []

    def on_retry(reason: str) -> None:
        if not notices and (deadline == math.inf or sys.stderr.isatty()):
            notices.append(reason)
            write_error(f"{reason}; retrying")

    try:
        with BlockingCursor(
            *map(str, urls_of(arguments)),
            token=token_of(arguments),
            ca_file=arguments.ca_file,
            deadline=deadline,
            on_retry=on_retry,
        ) as cursor:
            yield cursor
    except CursorError as error:
        is_repeated = getattr(arguments, "key", None) is not None
        raise _client_failure(error, is_repeated=is_repeated) from error


def _client_failure(error: CursorError, *, is_repeated: bool) -> VerbFailed:
    """
    Return the failure for an error of the client.

    @param is_repeated: whether C{--key} repeats an earlier step.  An earlier call may have
        made this step, so its outcome is unknown even if this call did not make it.
    """
    from pexservice.client import BadAddress, Moved, OutcomeUnknown, Refused

    if isinstance(error, BadAddress):
        return VerbFailed(str(error), exit_status=WRONG_ARGUMENTS)
    message, outcome = str(error), "unreachable"
    fields: dict[str, object] = {} if error.key is None else {"key": error.key}
    if isinstance(error, Moved):
        fields |= {"revision": error.state.revision, "position": error.state.position}
        if not error.maybe_performed:
            return VerbFailed(f"{error}; no step was made", "precondition-failed", fields)
    if isinstance(error, Refused):
        outcome, fields["problem"] = "refused", error.name
    if error.maybe_performed and error.key is not None:
        outcome = "outcome-unknown"
        if not isinstance(error, OutcomeUnknown):
            # An earlier attempt may have made the step.  Or a proxy sent this response, and
            # the service behind the proxy may have made the step.
            message += f"; it is unknown whether the step was made (key {error.key})"
    elif is_repeated and outcome == "unreachable":
        outcome = "outcome-unknown"
        message += "; an earlier call with this key may have made it, so repeat it"
    return VerbFailed(message, outcome, fields)


def _object_of(state: State) -> dict[str, object]:
    """
    Return the object for C{--json}.  Values are strings, as in the HTTP API.
    """
    return {
        "revision": state.revision,
        "position": state.position,
        "current": state.digits,
        "previous": state.previous_digits,
        "next": state.next_digits,
    }
