"""
The messages of a worker, its signals, and the progress of a verification.
"""

from __future__ import annotations

import faulthandler
import signal
import socket
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from pexservice.process.sd_notify import ALIVE
from pexservice.settings.options import WorkerSettings
from pexservice.worker import messages
from pexservice.worker.messages import (
    LOG_INTERVAL_SECONDS,
    VerificationProgress,
    connect_notifier,
    handle_signals_as_supervised,
)


def test_worker_of_a_supervisor_leaves_the_signals_of_the_terminal_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The worker ignores SIGHUP, and writes a traceback at SIGABRT.
    """
    changes = Mock()
    monkeypatch.setattr(faulthandler, "enable", changes.enable)
    monkeypatch.setattr(signal, "signal", changes.signal)
    handle_signals_as_supervised()
    changes.enable.assert_called_once()
    changes.signal.assert_any_call(signal.SIGHUP, signal.SIG_IGN)


def test_worker_without_a_supervisor_sends_its_heartbeats_to_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        with closing(connect_notifier(WorkerSettings())) as notifier:
            assert notifier.watchdog == 2.0
            notifier.send_heartbeat()
        assert systemd.recv(100) == b"WATCHDOG=1\n"


def test_progress_is_shown_in_messages_that_are_heartbeats() -> None:
    """
    Each message on the progress has a status text, is a heartbeat, and asks for more time.
    """
    notified: list[tuple[str, ...]] = []
    progress = VerificationProgress(lambda *lines: notified.append(lines))
    progress.show(41)
    progress.show(42)
    assert [lines[0] for lines in notified] == [
        "STATUS=verifying the store: 41 %",
        "STATUS=verifying the store: 42 %",
    ]
    assert all(lines[1:] == (ALIVE, "EXTEND_TIMEOUT_USEC=30000000") for lines in notified)


def test_long_verification_is_logged_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A short verification is not logged, and a long one every few seconds.
    """
    clock = Clock()
    monkeypatch.setattr(messages, "time", Mock(monotonic=clock.seconds))
    progress = VerificationProgress(lambda *_: None)
    with capturedLogs() as events:
        for percent in range(40):
            progress.show(percent)
            clock.advance(LOG_INTERVAL_SECONDS / 4)
    statuses = [event["status"] for event in events]
    assert statuses == [f"verifying the store: {percent} %" for percent in range(4, 40, 4)]
