"""
The short form: half a minute of the soak.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.soak.lab import record_soak, soak

pytestmark = pytest.mark.once

MINUTES = 0.5

KILL_INTERVAL_SECONDS = 5

#: How much the file may grow while the journal and the keys have not reached their limits,
#: in MiB.
INITIAL_FILE_SLACK = 8.0


def test_mixed_load_and_kills_lose_no_step_and_nothing_grows(tmp_path: Path) -> None:
    """
    No connection is refused, every value is right, and no figure doubles.

    Only a longer run can show that the figures are constant.
    """
    finished = soak(tmp_path, MINUTES, KILL_INTERVAL_SECONDS, kills_per_replacement=3)
    assert finished.replacements
    assert finished.follower.confirmed > 1000
    assert all(reader.reads for reader in finished.readers)
    finished.check_flatness(2, file_slack=INITIAL_FILE_SLACK)
    record_soak(finished, MINUTES)
