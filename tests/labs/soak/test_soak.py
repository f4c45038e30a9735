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


def test_soak(tmp_path: Path) -> None:
    """
    Under mixed load and kills no answered step is lost, and nobody is refused.

    Every value is right.  No figure doubles, either; a longer run must show whether they
    are flat.
    """
    going = soak(tmp_path, MINUTES, KILL_EVERY, replace_every=3)
    assert going.replaced
    assert going.follower.told > 1000
    assert all(each.reads for each in going.readers)
    going.check_flatness(2, file_slack=FILLING)
    keep(going, MINUTES)
