"""
Signals before the reactor handles them, and the end of a process whose parent has ended.

Without L{StartSignals}, a SIGHUP during the start would kill the process, and a SIGTERM
would leave its pid file behind.  L{StartSignals} only records these signals, and the
service looks at the record while it starts.

C{__main__} imports this module first, because the import of Twisted takes the most time.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable

#: How soon after a signal L{StartSignals.sleep} ends, at the latest.
_POLL_SECONDS = 0.05


class StartSignals:
    """
    The signals that this process received while it started.

    @ivar terminated: whether SIGTERM or SIGINT asked the process to end.
    """

    def __init__(self) -> None:
        self.terminated = False
        self._hung_up = False
        self._stop: Callable[[], object] | None = None
        self._reload: Callable[[], object] | None = None

    def install(self) -> None:
        """
        Record SIGTERM, SIGINT and SIGHUP from now on.
        """
        signal.signal(signal.SIGTERM, lambda *_: self.terminate())
        signal.signal(signal.SIGINT, lambda *_: self.terminate())
        signal.signal(signal.SIGHUP, lambda *_: self.hang_up())
        # The program that starts a container's process 1 may have blocked SIGTERM until
        # now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    def leave_to_reactor(self, stop: Callable[[], object]) -> None:
        """
        Leave SIGTERM and SIGINT to the reactor, which handles them when it runs.

        @param stop: called if such a signal has arrived, or arrives before the reactor
            runs.
        """
        self._stop = stop
        if self.terminated:
            stop()
        # Twisted handles SIGINT only if the present handler is Python's default handler.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_hang_up(self, reload: Callable[[], object]) -> None:
        """
        Have C{reload} called at each SIGHUP, and now if one has arrived.
        """
        self._reload = reload
        if self._hung_up:
            reload()

    def terminate(self) -> None:
        self.terminated = True
        if self._stop is not None:
            self._stop()

    def hang_up(self) -> None:
        self._hung_up = True
        if self._reload is not None:
            self._reload()

    def sleep(self, seconds: float) -> bool:
        """
        Wait for C{seconds}, or until the process is asked to end.

        @return: whether the process was not asked to end.
        """
        end = time.monotonic() + seconds
        while not self.terminated and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))
        return not self.terminated


def end_with_parent(descriptor: int) -> None:
    """
    Kill this process when its parent has ended, even if the main thread hangs.

    A thread waits until the parent's end of a pipe is closed.

    @param descriptor: this process's end of the pipe.  Only the parent has the other end.
    """

    def wait() -> None:
        # poll always reports that the other end is closed, so no event is registered.
        poll = select.poll()
        poll.register(descriptor, 0)
        ((_, event),) = poll.poll()
        if event != select.POLLNVAL:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()


#: The signals of this process.
START_SIGNALS = StartSignals()
