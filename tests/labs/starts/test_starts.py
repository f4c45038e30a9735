"""
Starts that something comes in the way of.
"""

from __future__ import annotations

from pathlib import Path

from tests.labs.starts.lab import TROUBLES, starts


def test_service_comes_up_although_its_start_is_disturbed(tmp_path: Path) -> None:
    """
    It was killed under clients. No answered step is lost or made twice.
    """
    result = starts(tmp_path, len(TROUBLES))
    print(result)
    assert set(result.troubles) == set(TROUBLES)
    assert result.acknowledged > len(TROUBLES)
