"""
Signals that come before the reactor handles them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pexservice.process.signals import StartSignals


@pytest.fixture
def signals() -> Iterator[StartSignals]:
    """
    Provide an instance that records the signals of this process.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    signals = StartSignals()
    signals.install()
    yield signals
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def send(number: int) -> None:
    """
    Send a signal to this process, which gets it at once.
    """
    os.kill(os.getpid(), number)


def test_signal_ends_a_wait_early(signals: StartSignals) -> None:
    assert signals.sleep(0.01)
    send(signal.SIGTERM)
    assert not signals.sleep(1e9)


def test_sighup_before_there_is_a_handler_is_remembered(signals: StartSignals) -> None:
    """
    Two early SIGHUPs are one reload.
    """
    send(signal.SIGHUP)
    send(signal.SIGHUP)
    reloads: list[None] = []
    signals.on_hang_up(lambda: reloads.append(None))
    assert len(reloads) == 1
    send(signal.SIGHUP)
    assert len(reloads) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_the_hand_over_stops_the_service(
    signals: StartSignals, number: int
) -> None:
    stopped: list[None] = []
    send(number)
    assert signals.terminated
    signals.leave_to_reactor(lambda: stopped.append(None))
    assert len(stopped) == 1


def test_reactor_takes_the_signals_after_the_hand_over(signals: StartSignals) -> None:
    """
    Twisted replaces Python's default handler of SIGINT only, so this handler is restored.
    """
    stopped: list[None] = []
    signals.leave_to_reactor(lambda: stopped.append(None))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    send(signal.SIGTERM)
    assert len(stopped) == 1
