"""
The short form: starts that are disturbed.
"""

from __future__ import annotations

from pathlib import Path

from tests.labs.starts.lab import DISTURBANCES, starts


def test_service_comes_up_although_its_start_is_disturbed(tmp_path: Path) -> None:
    """
    The service was killed under load, and no acknowledged step is lost or made twice.
    """
    disturbances, acknowledged = starts(tmp_path, len(DISTURBANCES))
    assert set(disturbances) == set(DISTURBANCES)
    assert acknowledged > len(DISTURBANCES)
