"""
Signals that come before the reactor handles them.

Until then SIGHUP would kill the process, and SIGTERM would leave its pid file behind and
a child that checks the store.  Here the signals are only noted, and the service that
starts looks at them when it can.
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

    @ivar terminated: whether SIGTERM or SIGINT asked the process to end.
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
        # The program that starts a container's process 1 may have blocked SIGTERM until
        # now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    def hand_over(self, stop: Callable[[], object]) -> None:
        """
        Leave SIGTERM and SIGINT to the reactor, which takes them when it runs.

        @param stop: called if such a signal came already, or comes before the reactor
            runs.
        """
        self.on_terminate(stop)
        # Twisted takes SIGINT only where Python's default handler is.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_terminate(self, interrupt: Callable[[], object] | None) -> None:
        """
        Have C{interrupt} called when the process is asked to end.

        If the process was asked already, call C{interrupt} now.
        """
        self._interrupt = interrupt
        if self.terminated and interrupt is not None:
            interrupt()

    def on_hang_up(self, reload: Callable[[], object]) -> None:
        """
        Have C{reload} called at each SIGHUP, and now if one came already.
        """
        self._reload = reload
        if self._hung_up:
            reload()

    def terminate(self) -> None:
        """
        Note that the process is asked to end, and call the interrupt if there is one.
        """
        self.terminated = True
        if self._interrupt is not None:
            self._interrupt()

    def hang_up(self) -> None:
        """
        Reload if the service can already, and note that a SIGHUP came.
        """
        if self._reload is not None:
            self._reload()
        self._hung_up = True

    def sleep(self, seconds: float) -> None:
        """
        Wait for C{seconds}, or until the process is asked to end.
        """
        end = time.monotonic() + seconds
        while not self.terminated and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))


#: The signals of this process.
START_SIGNALS = StartSignals()
