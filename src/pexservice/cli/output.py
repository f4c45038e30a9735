"""
The output of C{pexctl}: results on standard output, and progress on a terminal.
"""

from __future__ import annotations

import os
import sys
from typing import Self, TextIO

from pexservice.cli.outcome import VerbFailed

#: The length of a bar that is full.  Characters.
_FULL = 30


def write(line: str) -> None:
    """
    Write a line of the result.

    @raise BrokenPipeError: nobody reads standard output.
    @raise VerbFailed: the line cannot be written.
    """
    try:
        sys.stdout.write(f"{line}\n")
        # Flushed here: when the process ends, a failure could not be reported any more.
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_output()
        raise VerbFailed(f"standard output: {error.strerror}") from error


def give_up_output() -> None:
    """
    Discard all further output: the rest would be written when the process ends, and fail.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ProgressBar:
    """
    A progress bar on standard error, which shows only if that is a terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._show("")

    def show(self, words: str, percent: float) -> None:
        """
        Show C{words}, and how much is done, in percent.
        """
        percent = min(max(percent, 0.0), 100.0)
        done = "#" * int(_FULL * percent / 100)
        self._show(f"[{done:.<{_FULL}}] {percent:3.0f} % {words}")

    def _show(self, line: str) -> None:
        if line != self._shown and self._stream.isatty():
            # Blanks write over the end of a line that was longer before.
            self._stream.write(f"\r{line:{len(self._shown)}}\r")
            self._stream.flush()
            self._shown = line
