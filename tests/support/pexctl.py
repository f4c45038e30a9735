"""
Run C{pexctl} in this process until it ends.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import patch

from pexservice.cli.pexctl import main

#: The command line of a process.
PEXCTL = (str(Path(sys.executable).parent / "pexctl"),)


class Ended(NamedTuple):
    """
    How C{pexctl} ended: its exit status and its output.
    """

    status: Any
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal(io.StringIO):
    """
    A terminal, which sends a signal to this process when it shows certain words.
    """

    def __init__(self, words: str = "", number: signal.Signals = signal.SIGINT) -> None:
        super().__init__()
        self._words, self._number = words, number

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._words and self._words in text:
            self._words = ""
            os.kill(os.getpid(), self._number)
        return super().write(text)


def called(
    *arguments: str,
    env: Mapping[str, str] = MappingProxyType({}),
    err: io.StringIO | None = None,
) -> Ended:
    """
    Call C{main} of C{pexctl} in this process.

    @param env: further environment variables.
    @param err: standard error; by default, it is no terminal.
    """
    out, err = io.StringIO(), err or io.StringIO()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        with redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, env):
            status: Any = main(arguments)
    except SystemExit as exit_:
        status = exit_.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ended(status, out.getvalue(), err.getvalue())


def pexctl(path: Path, *arguments: str) -> tuple[int, str]:
    """
    Call C{pexctl} in the directory C{path}, and return its exit status and output.
    """
    with chdir(path):
        ended = called(*arguments)
    return ended.status, (ended.out + ended.err).rstrip("\n")
