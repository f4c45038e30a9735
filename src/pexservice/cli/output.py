"""
What C{pexctl} writes: results on standard output, and progress where somebody looks on.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Self, TextIO

from pexservice.cli.outcome import VerbFailed

#: The length of a bar that is full.  Characters.
_FULL = 30


def write(line: str) -> None:
    """
    Write a line of the result.

    @raise BrokenPipeError: nobody reads it.
    @raise VerbFailed: it cannot be written.
    """
    try:
        sys.stdout.write(f"{line}\n")
        # Not at the end, where nobody could be told that it is not read.
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_output()
        raise VerbFailed(f"standard output: {error.strerror}") from error


def give_up_output() -> None:
    """
    Write nothing any more: what is left would be written when the process ends, and fail.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ProgressBar:
    """
    A bar on standard error, if that is a terminal; else nothing.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self._show("")

    def show(self, words: str, percent: float) -> None:
        """
        Show how much is done of something.
        """
        percent = min(max(percent, 0.0), 100.0)
        done = "#" * int(_FULL * percent / 100)
        self._show(f"[{done:.<{_FULL}}] {percent:3.0f} % {words}")

    def _show(self, line: str) -> None:
        if line != self._shown and self._stream.isatty():
            # What was longer before is written over.
            self._stream.write(f"\r{line:{len(self._shown)}}\r")
            self._stream.flush()
            self._shown = line
