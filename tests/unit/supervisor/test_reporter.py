"""
The supervisor's reporter.
"""

from __future__ import annotations

from twisted.logger import capturedLogs, formatEvent

from pexservice.process.sd_notify import Notifier
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.supervisor.reporter import Reporter


def test_takeover_is_logged_with_its_pause() -> None:
    """
    The pause lasts from the end of one worker until the next one is active.
    """
    reporter = Reporter(Notifier(), SupervisorReport(), lambda _: None)
    with capturedLogs() as events:
        reporter.on_active("worker-1", 1.0)
        reporter.on_active_ending("worker-1", 5.0)
        reporter.on_active("worker-2", 5.0084)
        # The end of this worker is noticed later.
        reporter.on_active("worker-1", 7.0)
    assert [formatEvent(event) for event in events] == [
        "worker-2 took over after 8 ms",
        "worker-1 took over",
    ]
