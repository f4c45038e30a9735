"""
Starts that something comes in the way of.
"""

from __future__ import annotations

from pathlib import Path

from tests.labs.starts.lab import TROUBLES, starts


def test_disturbed_starts(tmp_path: Path) -> None:
    """
    The service comes up after it was killed under clients and disturbed while it starts.

    No step that was answered is lost or made twice.
    """
    result = starts(tmp_path, len(TROUBLES))
    print(result)
    assert set(result.troubles) == set(TROUBLES)
    assert result.told > len(TROUBLES)
