"""
The child process that reads a store.

LMDB maps the file into memory.  A page that is missing or unreadable is then no error but
a SIGBUS, so a store of unknown health is read by a child process that may die of it.  The
child's standard output tells how far it is, in lines C{progress PERCENT}, and in other
lines what is wrong.  The child ends when nobody reads its output any more.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pexservice.process.children import killed_with_parent
from pexservice.process.exit_status import SIGNALS_OF_DAMAGE, CannotStart
from pexservice.stores.interface import (
    StoreDamaged,
    StoreIncompatible,
    StoreUnread,
    StoreUnusable,
)
from pexservice.stores.lmdb.directory import DATA

#: Called with how much is done, in percent.
Progress = Callable[[int], object]

#: How often a child tells of its progress.  Seconds; less than any watchdog's patience.
INTERVAL = 0.25

_PROGRESS = "progress"

#: The errors that exit statuses of a child stand for; other statuses say that trying
#: again may help.
_ERRORS: dict[int, type[StoreUnusable]] = {
    each.exit_status: each for each in (StoreDamaged, StoreIncompatible)
}


def ask_child(
    path: Path,
    module: str,
    *arguments: str,
    progress: Progress | None = None,
) -> None:
    """
    Have a child process read the store in C{path}, and wait for its end.

    This blocks: it is for a process that has nothing else to do until the store is known
    to be whole.  Signal handlers run meanwhile, and C{progress} is called, so that
    a parent that waits for this process can be told that it is alive.

    @param module: the module to run, which ends with what L{answer} returns.
    @param progress: called several times a second with how much is done, in percent, but
        only while the child makes progress: a child that hangs is silent.
    @raise StoreDamaged: the store is damaged, or reading it killed the child.
    @raise StoreIncompatible: the store has another format.
    @raise StoreUnusable: the store could not be read.
    """
    said: list[str] = []
    with subprocess.Popen(
        [*killed_with_parent(), sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # In a process group of its own, the kernel continues and ends a child that somebody
        # has stopped when this process is gone.
        process_group=0,
    ) as child:
        try:
            for line in child.stdout or ():
                word, _, percent = line.strip().partition(" ")
                if word != _PROGRESS or not percent.isdecimal():
                    said.append(line)
                elif progress is not None:
                    progress(int(percent))
        except BaseException:
            child.kill()
            raise
    _judge(path, child.returncode, "".join(said).strip())


def _judge(path: Path, status: int, said: str) -> None:
    """
    Raise the error that a child's end stands for, unless the child ended well.

    @param status: its return code, as C{subprocess} has it.
    """
    if error := _ERRORS.get(status):
        raise error(said)
    if -status in SIGNALS_OF_DAMAGE:
        raise StoreDamaged(
            f"the store {path} is damaged: reading it ended by signal {-status};"
            f" the file {DATA} may be shorter than it was"
        )
    if status < 0:
        # Not the doing of the store, but for example of the kernel when memory is short.
        raise StoreUnread(
            f"the store {path} was not verified: signal {-status} ended the process that"
            " read it"
        )
    if status:
        raise StoreUnusable(
            said.splitlines()[-1] if said else f"the store {path} cannot be verified"
        )


def answer(call: Callable[[Progress], object]) -> int:
    """
    Make C{call} in the child process, and write its error, if any, to standard output.

    L{ask_child} has started this process.

    @param call: takes the function that it reports its progress to.
    @return: the exit status.
    """
    try:
        call(_write_progress)
    except (StoreUnusable, CannotStart) as error:
        sys.stdout.write(f"{error}\n")
        return error.exit_status
    return 0


def _write_progress(percent: int) -> None:
    sys.stdout.write(f"{_PROGRESS} {percent}\n")
    sys.stdout.flush()


class Meter:
    """
    A meter that reports progress now and then, however often it is told.
    """

    def __init__(
        self, report: Progress, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = report
        self._monotonic = monotonic
        self._next = monotonic()

    def tell(self, fraction: float) -> None:
        """
        Report the progress, if a report is due.

        @param fraction: the part of the whole that is done, 0 to 1.
        """
        now = self._monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            self._report(int(100 * fraction))
