"""
The supervisor's reports on its workers.
"""

from __future__ import annotations

from twisted.logger import capturedLogs, formatEvent

from pexservice.process.sd_notify import Notifier
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.supervisor.reporter import Reporter


def test_a_takeover_is_logged_with_its_pause_and_the_first_start_is_none() -> None:
    """
    The pause goes from the end of one worker to the readiness of the next.
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
