"""
The progress of a verification as a sign of life.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from pexservice.process.sd_notify import ALIVE
from pexservice.process.verification import LOG_INTERVAL, VerificationProgress


def test_each_sign_is_passed_on() -> None:
    """
    Progress is passed on in systemd's words.

    The words are a status, more time to start, and a sign that the process is alive.
    """
    notified: list[tuple[str, ...]] = []
    progress = VerificationProgress(lambda *lines: notified.append(lines))
    progress(41)
    progress(42)
    assert [lines[0] for lines in notified] == [
        "STATUS=verifying the store: 41 %",
        "STATUS=verifying the store: 42 %",
    ]
    assert all(lines[1:] == ("EXTEND_TIMEOUT_USEC=30000000", ALIVE) for lines in notified)


def test_the_log_is_told_now_and_then() -> None:
    """
    A short verification is not logged, and a long one every few seconds.
    """
    clock = Clock()
    progress = VerificationProgress(lambda *_: None, clock.seconds)
    with capturedLogs() as events:
        for percent in range(40):
            progress(percent)
            clock.advance(LOG_INTERVAL / 4)
    told = [event["status"] for event in events]
    assert told == [f"verifying the store: {percent} %" for percent in range(4, 40, 4)]
