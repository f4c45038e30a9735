"""
Calls that are repeated whatever they raise.
"""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import Mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from pexservice.process.timing import Periodic


def test_an_exception_does_not_end_the_calls_but_stop_does() -> None:
    """
    The exception is logged with its traceback.  L{Periodic.stop} may be called again.
    """
    clock = Clock()
    function = Mock(side_effect=[OSError(24, "Too many open files"), None, None])
    periodic = Periodic(function, clock)
    periodic.stop()
    with capturedLogs() as events:
        periodic.start(1.0)
        assert function.call_count == 0
        clock.pump([1.0, 1.0, 1.0])
    assert function.call_count == 3
    (failure,) = [event["log_failure"] for event in events if "log_failure" in event]
    assert failure.check(OSError)
    periodic.stop()
    periodic.stop()
    clock.advance(5.0)
    assert function.call_count == 3


def test_a_failed_deferred_does_not_end_the_calls() -> None:
    """
    The next call waits until the C{Deferred} has fired.
    """
    clock, results = Clock(), list[Deferred[None]]()

    def function() -> Deferred[None]:
        results.append(Deferred())
        return results[-1]

    periodic = Periodic(function, clock)
    periodic.start(1.0, now=True)
    clock.advance(5.0)
    assert len(results) == 1
    results[0].errback(OSError(24, "Too many open files"))
    clock.advance(1.0)
    assert len(results) == 2


def test_reactor_of_a_process_has_a_monotonic_clock() -> None:
    code = (
        "import time\nfrom pexservice.process.timing import the_reactor\n"
        "assert the_reactor().seconds() <= time.monotonic()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
