"""
The short form: the records of many clients while workers are killed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.histories.lab import CLIENTS, histories
from tests.support.forms import amount

KILLS = amount(short=5, long=10)


def test_record_of_sixteen_clients_over_some_kills_is_linearizable(tmp_path: Path) -> None:
    result = histories(tmp_path, KILLS)
    print(result)
    # There were operations of all kinds, and some lost their response.
    assert result.reads > 10 * KILLS
    assert result.operations - result.reads > 10 * KILLS
    assert 0 < result.unknown <= (KILLS + 1) * CLIENTS


def test_control_finds_steps_that_were_lost(tmp_path: Path) -> None:
    """
    The negative control sends its responses before the steps are on disk.
    """
    with pytest.raises(AssertionError, match=r"faults\n"):
        histories(tmp_path, 3, "--synchronous-commit", "off")
