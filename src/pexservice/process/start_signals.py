"""
Signals that come before the reactor handles them.

Until then SIGHUP would kill the process, and SIGTERM would leave its pid file behind and
a child that checks the store.  Here they are only noted, for the service that starts to
look at when it can.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

#: How long a wait may overlook a signal.  Seconds.
_SLICE = 0.05


class StartSignals:
    """
    The signals that this process received while it started.

    @ivar terminated: SIGTERM or SIGINT asked it to end.
    """

    def __init__(self) -> None:
        self.terminated = False
        self._hung_up = False
        self._interrupt: Callable[[], object] | None = None
        self._reload: Callable[[], object] | None = None

    def install(self) -> None:
        """
        Note SIGTERM, SIGINT and SIGHUP from now on.
        """
        signal.signal(signal.SIGTERM, lambda *_: self.terminate())
        signal.signal(signal.SIGINT, lambda *_: self.terminate())
        signal.signal(signal.SIGHUP, lambda *_: self.hang_up())
        # What starts a container's process 1 may have blocked it until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    def hand_over(self, stop: Callable[[], object]) -> None:
        """
        Leave SIGTERM and SIGINT to the reactor, which takes them when it runs.

        @param stop: called if one came already, or comes before the reactor runs.
        """
        self.on_terminate(stop)
        # Twisted takes SIGINT only where nobody else has.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_terminate(self, interrupt: Callable[[], object] | None) -> None:
        """
        Have C{interrupt} called when the process is asked to end, or now if it was.
        """
        self._interrupt = interrupt
        if self.terminated and interrupt is not None:
            interrupt()

    def on_hang_up(self, reload: Callable[[], object]) -> None:
        """
        Have C{reload} called at each SIGHUP, and now if there was one.
        """
        self._reload = reload
        if self._hung_up:
            reload()

    def terminate(self) -> None:
        """
        Do what SIGTERM asks for.
        """
        self.terminated = True
        if self._interrupt is not None:
            self._interrupt()

    def hang_up(self) -> None:
        """
        Do what SIGHUP asks for.
        """
        if self._reload is not None:
            self._reload()
        self._hung_up = True

    def sleep(self, seconds: float) -> None:
        """
        Wait, but not once the process is asked to end.
        """
        end = time.monotonic() + seconds
        while not self.terminated and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))


#: Of this process.
START_SIGNALS = StartSignals()
