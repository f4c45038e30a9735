"""
Half a minute of the soak.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.soak.lab import keep, soak

pytestmark = pytest.mark.once

MINUTES = 0.5

#: Seconds.
KILL_EVERY = 5

#: The growth of a journal that is not as long yet as it will be, and of its keys.  MiB.
FILLING = 8.0


def test_mixed_load_and_kills_lose_no_step_and_nothing_grows(tmp_path: Path) -> None:
    """
    No connection is refused, every value is right, and no figure doubles.

    Only a longer run can show that the figures are flat.
    """
    going = soak(tmp_path, MINUTES, KILL_EVERY, replace_every=3)
    assert going.replaced
    assert going.follower.confirmed > 1000
    assert all(reader.reads for reader in going.readers)
    going.check_flatness(2, file_slack=FILLING)
    keep(going, MINUTES)
