"""
The reactor of a supervisor.
"""

from __future__ import annotations

import subprocess
import sys
import time

from twisted.internet.interfaces import IReactorCore, IReactorProcess, IReactorTime

from pexservice.process.steady_reactor import SteadyReactor


def test_time() -> None:
    """
    The reactor's seconds are those of the monotonic clock, whatever the wall clock does.
    """
    reactor = SteadyReactor()
    before = time.monotonic()
    assert before <= reactor.seconds() <= time.monotonic()
    for interface in (IReactorCore, IReactorProcess, IReactorTime):
        assert interface.providedBy(reactor)


def test_installed_unless_one_is_chosen() -> None:
    """
    The steady reactor becomes the process's, unless C{twistd --reactor} has chosen another.
    """
    for choice, expected in (
        ("", "SteadyReactor"),
        ("from twisted.internet import pollreactor; pollreactor.install()", "PollReactor"),
    ):
        code = (
            f"{choice}\nfrom pexservice.process.steady_reactor import the_reactor\n"
            "print(type(the_reactor()).__name__)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        assert ended.stdout.strip() == expected
