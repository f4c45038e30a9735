"""
A reactor whose timers go by the monotonic clock.

The timers of Twisted's own reactors go by the wall clock: a step of that would condemn
every silent worker at once, or none for as long as the step was.  The uvloop reactor is
as steady; any other that C{twistd --reactor} names keeps its own clock.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor

_REACTOR = "twisted.internet.reactor"


class SteadyReactor(EPollReactor):
    """
    Twisted's default reactor on Linux, on the monotonic clock.
    """

    seconds = staticmethod(time.monotonic)


def the_reactor() -> Any:
    """
    Return the process's reactor, and install a steady one if none is chosen yet.
    """
    if _REACTOR not in sys.modules:
        installReactor(SteadyReactor())
    from twisted.internet import reactor  # noqa: PLC0415 it is chosen by now

    return reactor
