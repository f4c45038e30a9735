"""
Many clients and one cursor, whatever happens to the workers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.histories.lab import CLIENTS, histories

KILLS = 10


def test_record_of_sixteen_clients_over_ten_kills_is_linearizable(tmp_path: Path) -> None:
    result = histories(tmp_path, KILLS)
    print(result)
    # There was a load of all kinds, and some of it was cut off.
    assert result.looks > 10 * KILLS
    assert result.operations - result.looks > 10 * KILLS
    assert 0 < result.unknown <= (KILLS + 1) * CLIENTS


def test_control_finds_steps_that_were_lost(tmp_path: Path) -> None:
    """
    The responses of the control are sent before the disk has the step.
    """
    with pytest.raises(AssertionError, match=r"faults\n"):
        histories(tmp_path, KILLS // 2, "--synchronous-commit", "off")
