"""
The output of C{pexctl}: results, failures, and progress on a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Self, TextIO

from attrs import define, field, frozen

#: The exit status for wrong arguments, whether the parser or the verb finds the mistake.
WRONG_ARGUMENTS = 2

#: The exit statuses by outcome.  Any other failure has the exit status 1.
_EXIT_STATUSES = {
    "misconfigured": 64,
    "incompatible": 64,
    "none": 69,
    "unreachable": 69,
    "outcome-unknown": 75,
    "damaged": 78,
}

#: The outcome of an error, by the status with which a service exits after this error.
_STORE_OUTCOMES = {64: "misconfigured", 78: "damaged"}

_BAR_CHARACTERS = 30

_STANDARD_ERROR = 2


@frozen
class Result:
    """
    The result of a verb.

    @ivar line: the text for people.
    @ivar fields: the object that C{--json} prints.
    """

    line: str
    fields: Mapping[str, object] = field(factory=dict)


@define(eq=False)
class VerbFailed(Exception):
    """
    The failure of a verb.

    @ivar message: one line that says what is wrong, and where.
    @ivar outcome: the failure in one word, for programs.
    @ivar fields: further members of the object that C{--json} prints.
    @ivar exit_status: by default, the exit status of the outcome.
    """

    message: str
    outcome: str = "failed"
    fields: Mapping[str, object] = field(factory=dict)
    exit_status: int = field()

    @exit_status.default
    def _status_of_outcome(self) -> int:
        return _EXIT_STATUSES.get(self.outcome, 1)

    def __str__(self) -> str:
        return self.message


def failure_of(error: Exception) -> VerbFailed:
    """
    Return the failure for an expected error: of a verb, of a store or of a start.

    Any other error is a bug, and is raised again.
    """
    if isinstance(error, VerbFailed):
        return error
    # A verb that uses no store must not wait for these imports.
    from pexservice.process.exit_status import CannotStart  # noqa: PLC0415
    from pexservice.stores.errors import StoreError, StoreIncompatible  # noqa: PLC0415

    if isinstance(error, StoreIncompatible):
        return VerbFailed(str(error), "incompatible")
    if isinstance(error, StoreError | CannotStart):
        return VerbFailed(str(error), _STORE_OUTCOMES.get(error.exit_status, "failed"))
    raise error


def write(line: str) -> None:
    """
    Write a line to standard output.

    @raise BrokenPipeError: nothing reads standard output.
    @raise VerbFailed: the line cannot be written.
    """
    try:
        sys.stdout.write(f"{line}\n")
        # The line is flushed here, because Python could not report a failure at the exit.
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output(sys.stdout)
        raise VerbFailed(f"standard output: {error.strerror}") from error


def write_error(message: str) -> None:
    """
    Write a line to standard error.

    If standard error cannot be written, the exit status still shows the failure.
    """
    try:
        sys.stderr.write(f"pexctl: {message}\n")
        sys.stderr.flush()
    except OSError:
        discard_output(sys.stderr)


def open_closed_streams() -> None:
    """
    Open the null device for each standard stream that is closed.

    Otherwise the next file that is opened, for example a store, would get the descriptor 2,
    and error messages would be written into this file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 its only argument
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(_STANDARD_ERROR, "w")


def discard_output(stream: TextIO) -> None:
    """
    Discard what C{stream} still has in its buffer.

    Otherwise Python would try to write the buffer again at the exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class ProgressBar:
    """
    A progress bar on standard error, which is shown only on a terminal.
    """

    def __init__(self) -> None:
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._show("")

    def show(self, text: str, percent: float) -> None:
        percent = min(max(percent, 0.0), 100.0)
        done = "#" * int(_BAR_CHARACTERS * percent / 100)
        self._show(f"[{done:.<{_BAR_CHARACTERS}}] {percent:3.0f} % {text}")

    def _show(self, line: str) -> None:
        if line != self._shown and sys.stderr.isatty():
            # The line is padded, so that it overwrites the whole line before.
            sys.stderr.write(f"\r{line:{len(self._shown)}}\r")
            sys.stderr.flush()
            self._shown = line
