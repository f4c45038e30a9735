"""
Signals that come before the reactor handles them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pexservice.process.start_signals import StartSignals


@pytest.fixture
def signals() -> Iterator[StartSignals]:
    """
    One that notes the signals of this process.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(each) for each in numbers]
    signals = StartSignals()
    signals.install()
    yield signals
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def send(number: int) -> None:
    """
    Send a signal to this process, and have it arrive.
    """
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_asked_to_end(signals: StartSignals, number: int) -> None:
    """
    That is noted, and what waits is interrupted: now, or when it begins to wait.
    """
    interrupted: list[str] = []
    signals.on_terminate(lambda: interrupted.append("before"))
    send(number)
    assert signals.terminated
    signals.on_terminate(None)
    signals.on_terminate(lambda: interrupted.append("after"))
    assert interrupted == ["before", "after"]


def test_a_wait_ends_early(signals: StartSignals) -> None:
    """
    Nobody waits for long in a process that is asked to end.
    """
    signals.sleep(0.01)
    send(signal.SIGTERM)
    signals.sleep(1e9)


def test_new_workers_are_asked_for(signals: StartSignals) -> None:
    """
    That is remembered until somebody can do it, and done each time from then on.
    """
    send(signal.SIGHUP)
    send(signal.SIGHUP)
    reloads: list[None] = []
    signals.on_hang_up(lambda: reloads.append(None))
    assert len(reloads) == 1
    send(signal.SIGHUP)
    assert len(reloads) == 2


def test_handed_over(signals: StartSignals) -> None:
    """
    The reactor takes SIGTERM by itself, and SIGINT only where nobody else has.
    """
    stopped: list[None] = []
    signals.hand_over(lambda: stopped.append(None))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    send(signal.SIGTERM)
    assert len(stopped) == 1
