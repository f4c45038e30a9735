"""
Standard error of the shell that starts a daemon.

twistd puts C{/dev/null} in its place when it forks, and reports a start that failed in a
hundred bytes.  So a copy of the descriptor is kept until the service has started, and the
reason is written there whole.
"""

from __future__ import annotations

import os
from contextlib import suppress

_STANDARD_ERROR = 2


class StartTerminal:
    """
    The copy of standard error, while there is one.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def keep(self) -> None:
        """
        Keep a copy of standard error, which this process's children do not inherit.
        """
        # An operator who closed standard error does not want to be told.
        with suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.dup(_STANDARD_ERROR)

    def write(self, line: str) -> None:
        """
        Write C{line} to the terminal that started this daemon, if it was started as one.
        """
        # The file or pipe there may be full or gone, and the log has the line too.
        with suppress(OSError):
            if self._descriptor is not None:
                os.write(self._descriptor, line.encode())

    def release(self) -> None:
        """
        Close the copy: a daemon that runs holds no terminal.
        """
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


#: The terminal that this process is started from.
START_TERMINAL = StartTerminal()
