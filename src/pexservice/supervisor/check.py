"""
The check, before the first start, whether a worker would start.

A child process checks, so that the operator who starts the service sees the result at
once.  The child says in lines of output what is wrong, and by its exit status of what
kind that is; lines C{progress PERCENT} say how far it is.  The same rules hold for it as
for workers: it ends with the supervisor, and a check that a signal ended is repeated
after a worker's delay.

The reactor does not run yet, so the check waits without it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial

from attrs import frozen
from twisted.logger import Logger

from pexservice.process.exit_status import CannotStart, Status
from pexservice.process.start_signals import StartSignals
from pexservice.supervisor.child import SIGNALS_OF_DAMAGE, End, RestartDelay
from pexservice.supervisor.lines import Lines

#: The beginning of a line of progress, with a number behind it.
_PROGRESS = "progress"

_KNOWN: dict[int, Status] = {each.value: each for each in Status}

#: How much of the child's output is read at a time.  Bytes.
_CHUNK = 8192


class Refused(CannotStart):
    """
    The check found that a worker would not start.
    """

    __module__ = "pexservice"

    def __init__(self, exit_status: Status, reason: str) -> None:
        super().__init__(reason)
        self.exit_status = exit_status


@frozen
class Check:
    """
    The check whether a worker would start.

    @ivar command: the command line of the child that checks.
    @ivar store: the store that is checked, as the operator knows it.
    @ivar progress: called with how much of the store was verified, in percent.
    """

    _command: Sequence[str]
    _store: str
    _progress: Callable[[int], object]
    _signals: StartSignals
    _log = Logger()

    def run(self) -> None:
        """
        Check, and return when a worker would start or this process is asked to end.

        @raise Refused: a worker would not start.
        """
        delay = RestartDelay()
        while not self._signals.terminated:
            began, said = time.monotonic(), list[str]()
            try:
                end = self._run_once(said)
            except OSError as error:
                reason = f"cannot start the check of {self._store}: {error.strerror}"
                raise Refused(Status.CANNOT_START, reason) from error
            if end.code == 0 or self._signals.terminated:
                return
            if end.code > 0:
                reason = said[-1] if said else f"the check of {self._store} ended {end}"
                raise Refused(_KNOWN.get(end.code, Status.CANNOT_START), reason)
            if -end.code in SIGNALS_OF_DAMAGE:
                raise Refused(
                    Status.DAMAGED,
                    f"the store {self._store} is damaged: reading it ended {end}; its"
                    " file may be shorter than it was",
                )
            # Another process or the kernel ended it, as when memory is short.
            self._log.warn(
                "the check of {store} ended {how} and is repeated",
                store=self._store,
                how=end,
            )
            self._signals.sleep(delay.after(time.monotonic() - began))

    def _run_once(self, said: list[str]) -> End:
        lines = Lines(partial(self._line_received, said))
        with subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C goes to a terminal's whole process group; we pass it on.
            process_group=0,
        ) as child:
            self._signals.on_terminate(child.kill)
            try:
                output = child.stdout
                while output is not None and (data := output.read1(_CHUNK)):  # type: ignore[attr-defined]
                    lines.feed(data)
                child.wait()
            finally:
                self._signals.on_terminate(None)
                child.kill()
        lines.end()
        return End(child.returncode)

    def _line_received(self, said: list[str], line: str) -> None:
        word, _, percent = line.partition(" ")
        if word == _PROGRESS and percent.isdecimal():
            self._progress(int(percent))
        elif line.strip():
            said.append(line)
            del said[:-1]
