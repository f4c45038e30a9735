"""
The child process that reads a store.

LMDB maps the data file into memory.  If a process reads a page that is missing, or that the
disk cannot read, the kernel ends the process with SIGBUS.  So a child process reads a store
that may be damaged: the child verifies, copies or rewrites the store.  For example, this
child verifies a store::

    $ python -m pexservice.stores.lmdb.child pexservice.stores.lmdb.verify.verify /srv/pex
    progress 0
    progress 31
    the store /srv/pex is damaged: the journal does not lead to the cursor
    $ echo $?
    78

The child writes its progress in percent.  If it fails, it writes the reason.  Its exit
status is 0 for success, 78 (C{EX_CONFIG}) for a damaged store, 64 (C{EX_USAGE}) for a store
of another format, and 1 for a store that cannot be read.  The child ends when no process
reads its output any more.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.python.reflect import namedAny

from pexservice.process.children import killed_with_parent
from pexservice.process.exit_status import SIGNALS_OF_DAMAGE, CannotStart
from pexservice.stores.errors import (
    ReadingChildKilled,
    StoreDamaged,
    StoreError,
    StoreIncompatible,
)
from pexservice.stores.lmdb.directory import DATA_FILE

#: Called with how much is done, in percent.
Progress = Callable[[int], object]

#: The least time between two reports of progress.  Every watchdog allows more time.
REPORT_INTERVAL_SECONDS = 0.25

_PROGRESS = "progress"


def run_child(
    function: Callable[..., None],
    path: Path,
    *arguments: Path,
    progress: Progress = lambda _: None,
) -> None:
    """
    Call C{function} in a child process, and block until the child has ended.

    @param function: a function at the top of a module.  It reads the store in C{path}, and
        gets C{path}, C{arguments}, and a function to report its progress.
    @param progress: called several times a second with how much is done, in percent, but
        not while the child hangs.
    @raise StoreDamaged: the store is damaged, or reading it ended the child.
    @raise StoreIncompatible: the store has another format.
    @raise StoreError: the store could not be read.
    """
    name = f"{function.__module__}.{function.__name__}"
    lines: list[str] = []
    # The watchdog's time begins now.  So the watchdog also acts if the child hangs before
    # its first report.
    progress(0)
    with subprocess.Popen(
        [*killed_with_parent(), sys.executable, "-m", __name__, name, path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # The child has its own process group.  If the child is stopped (SIGSTOP) when this
        # process ends, the kernel sends SIGHUP and SIGCONT to the group and ends the child.
        process_group=0,
    ) as child:
        try:
            for line in child.stdout or ():
                word, _, percent = line.strip().partition(" ")
                if word == _PROGRESS and percent.isdecimal():
                    progress(int(percent))
                else:
                    lines.append(line)
        except BaseException:
            child.kill()
            raise
    status, output = child.returncode, "".join(lines).strip()
    for error in (StoreDamaged, StoreIncompatible):
        if status == error.exit_status:
            raise error(output)
    if -status in SIGNALS_OF_DAMAGE:
        raise StoreDamaged(
            f"the store {path} is damaged: reading it ended by signal {-status};"
            f" the file {DATA_FILE} may be shorter than it was"
        )
    if status < 0:
        raise ReadingChildKilled(
            f"the store {path} could not be read: signal {-status} ended the process that"
            " read it"
        )
    if status:
        raise StoreError(
            output.splitlines()[-1] if output else f"the store {path} cannot be read"
        )


def child_main(read: Callable[[Progress], object]) -> int:
    """
    Call C{read} in the child process, and write its progress and its error, if any.

    @param read: gets a function, and calls it with the progress in percent, at any rate.
    @return: the exit status.
    """
    next_report = time.monotonic()

    def report(percent: int) -> None:
        nonlocal next_report
        now = time.monotonic()
        if now >= next_report:
            next_report = now + REPORT_INTERVAL_SECONDS
            sys.stdout.write(f"{_PROGRESS} {percent}\n")
            sys.stdout.flush()

    try:
        read(report)
    except (StoreError, CannotStart) as error:
        sys.stdout.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(child_main(partial(namedAny(sys.argv[1]), *map(Path, sys.argv[2:]))))
