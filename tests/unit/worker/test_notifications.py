"""
Tests of the notifications of a worker, of its signals and of its progress.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from pexservice.process.sd_notify import ALIVE, READY, Notifier
from pexservice.settings.options import Settings
from pexservice.worker.notifications import (
    HEARTBEATS_PER_WATCHDOG,
    LOG_INTERVAL_SECONDS,
    VerificationProgress,
    connect_notifier,
    start_heartbeat,
)

WATCHDOG = 4.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """
    Provide the reading and the writing end of a pipe.
    """
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_inheritable(descriptor, True)  # noqa: FBT003 its only argument
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """
    Provide a record of the changes that a supervised worker would make to its process.

    The test's own process does not get these changes.
    """
    done: list[object] = []
    monkeypatch.setattr(os, "setpgid", lambda *group: done.append(group))
    monkeypatch.setattr(faulthandler, "enable", lambda *_: done.append("traceback"))
    before = signal.getsignal(signal.SIGHUP)
    yield done
    signal.signal(signal.SIGHUP, before)


def test_worker_of_a_supervisor_leaves_the_signals_to_it(
    pipe: tuple[int, int], followed: list[object]
) -> None:
    """
    A worker below a supervisor speaks through its pipe.

    The worker has its own process group, leaves SIGHUP to the supervisor, and writes
    its traceback at SIGABRT.
    """
    reading, writing = pipe
    environment = {"WATCHDOG_USEC": "4000000", "NOTIFY_SOCKET": "@not-this-one"}
    notifier = connect_notifier(Settings(supervisor=writing), environment)
    notifier.notify(READY)
    assert os.read(reading, 100) == b"READY=1\n"
    assert notifier.watchdog == WATCHDOG
    assert followed == [(0, 0), "traceback"]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert not os.get_inheritable(writing)


def test_worker_without_a_supervisor_notifies_systemd(followed: list[object]) -> None:
    """
    A worker without a supervisor speaks to systemd, if any, and follows no process.
    """
    connect_notifier(Settings(), {}).notify(READY)
    assert followed == []


class Beating:
    """
    The heart of a worker, and the messages that it sends.
    """

    def __init__(self, settled: Callable[[], Deferred[None]]) -> None:
        self.clock = Clock()
        self.sent: list[list[str]] = []
        self.failing = False
        start_heartbeat(
            Notifier(self._send, WATCHDOG), self.clock, settled, lambda: ("STATUS=well",)
        )

    def _send(self, message: bytes) -> None:
        if self.failing:
            raise OSError(24, "Too many open files")
        self.sent.append(message.decode().splitlines())


def test_heartbeat_repeats_the_state() -> None:
    """
    A worker sends several signs of life within the watchdog's time, each with its state.
    """
    beating = Beating(lambda: succeed(None))
    beating.clock.pump([WATCHDOG / HEARTBEATS_PER_WATCHDOG] * HEARTBEATS_PER_WATCHDOG)
    assert beating.sent == [[ALIVE, "STATUS=well"]] * (1 + HEARTBEATS_PER_WATCHDOG)


def test_worker_sends_no_heartbeat_while_a_commit_hangs() -> None:
    """
    A worker sends no sign of life until a commit that hangs has ended.
    """
    commits: list[Deferred[None]] = []

    def settled() -> Deferred[None]:
        commits.append(Deferred())
        return commits[-1]

    beating = Beating(settled)
    beating.clock.pump([1.0] * 10)
    assert beating.sent == []
    commits[0].callback(None)
    assert len(beating.sent) == 1


def test_failed_heartbeat_is_not_the_last() -> None:
    """
    A sign of life that fails is not the last.

    This holds if the sign cannot be sent and if the state cannot be reported.
    """
    failures = [OSError(24, "Too many open files"), None]
    beating = Beating(lambda: fail(e) if (e := failures.pop()) else succeed(None))
    with capturedLogs() as events:
        failures[:] = [None, None, failures[0], None]
        beating.clock.advance(WATCHDOG / HEARTBEATS_PER_WATCHDOG)
        beating.failing = True
        beating.clock.pump([WATCHDOG / HEARTBEATS_PER_WATCHDOG] * 2)
        beating.failing = False
        beating.clock.advance(WATCHDOG / HEARTBEATS_PER_WATCHDOG)
    assert len(beating.sent) == 3
    levels = [event["log_level"] for event in events]
    assert levels == [LogLevel.critical, LogLevel.warn]


def test_worker_sends_no_heartbeat_without_a_watchdog() -> None:
    """
    Without a watchdog there is no sign of life.
    """
    clock = Clock()
    start_heartbeat(Notifier(print), clock, lambda: succeed(None), list)
    assert clock.getDelayedCalls() == []


def test_progress_is_a_status_and_a_heartbeat() -> None:
    """
    Progress is passed on in systemd's words.

    The words are a status, more time to start, and a sign that the process is alive.
    """
    notified: list[tuple[str, ...]] = []
    progress = VerificationProgress(lambda *lines: notified.append(lines))
    progress.report(41)
    progress.report(42)
    assert [lines[0] for lines in notified] == [
        "STATUS=verifying the store: 41 %",
        "STATUS=verifying the store: 42 %",
    ]
    assert all(lines[1:] == (ALIVE, "EXTEND_TIMEOUT_USEC=30000000") for lines in notified)


def test_long_verification_is_logged_now_and_then() -> None:
    """
    A short verification is not logged, and a long one every few seconds.
    """
    clock = Clock()
    progress = VerificationProgress(lambda *_: None, clock.seconds)
    with capturedLogs() as events:
        for percent in range(40):
            progress.report(percent)
            clock.advance(LOG_INTERVAL_SECONDS / 4)
    statuses = [event["status"] for event in events]
    assert statuses == [f"verifying the store: {percent} %" for percent in range(4, 40, 4)]


def test_no_heartbeat_but_progress_while_the_store_is_verified() -> None:
    """
    A verification that hangs must not be taken for a worker that lives.
    """
    progress = VerificationProgress(lambda *_: None)
    assert progress.when_ended().called
    progress.report(1)
    ended = progress.when_ended()
    progress.report(2)
    assert not ended.called
    progress.record_end()
    assert ended.called
    assert progress.when_ended().called
