"""
What a worker does for whoever started it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import FileLogObserver, eventAsText

from pexservice.process.periodic import Periodic
from pexservice.process.sd_notify import ALIVE, Notifier

#: Beats within the time of silence that is too long.
BEATS = 4

#: How long a worker whose supervisor is gone may take to stop.  Seconds.
ORPHAN_GRACE = 0.8


def heartbeat(
    notifier: Notifier,
    reactor: IReactorTime,
    settled: Callable[[], Deferred[None]],
    state: Callable[[], Sequence[str]],
) -> None:
    """
    Say that this process is alive, again and again, if somebody wants to know.

    @param settled: a round trip: fires when the commit under way has ended.  So
        neither a blocked reactor nor a stuck store is alive.
    @param state: what to say with it.
    """
    if notifier.watchdog is None:
        return

    def beat() -> Deferred[None]:
        return settled().addCallback(lambda _: notifier.tell(ALIVE, *state()))

    Periodic(beat, reactor).start(notifier.watchdog / BEATS, now=True)


def follow_supervisor(lifeline: int, stop: Callable[[], object]) -> None:
    """
    Live no longer than the supervisor, and leave the signals of the terminal to it.

    @param lifeline: the reading end of a pipe that only the supervisor can write
        to: it ends when the supervisor does, however that ends.
    @param stop: called in a thread, then, to stop this process.
    """
    os.set_inheritable(lifeline, False)  # noqa: FBT003 its only argument
    # Ctrl-C goes to a terminal's whole process group; the supervisor passes it on.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # At SIGABRT, the traceback of every thread.
    faulthandler.enable(sys.__stderr__ or 2)

    def watch() -> None:
        os.read(lifeline, 1)
        stop()
        time.sleep(ORPHAN_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def observer() -> FileLogObserver:
    """
    For C{twistd --logger}: lines without a time, for the supervisor's log has one.
    """
    return FileLogObserver(
        sys.__stdout__,  # type: ignore[arg-type]
        lambda event: eventAsText(event, includeTimestamp=False) + "\n",
    )
