"""
Power cuts under load, on each file system that a store is likely to be on.
"""

from __future__ import annotations

from pathlib import Path

from tests.functional.powercuts import CLIENTS, add, laboratory

CUTS = 51


def test_a_power_cut_takes_nothing_back(tmp_path: Path) -> None:
    """
    After each of fifty cuts the revision is at least the highest acknowledged, the
    history has every acknowledged step as it was told, and each key moved once,
    whether its answer had come or not.  Under the same cuts LMDB without syncs loses.
    """
    whole = add([*laboratory(tmp_path, CUTS).values()])
    assert whole.cuts == CUTS
    # The load was one, and cuts left answers away.
    assert whole.told > CLIENTS * CUTS
    assert whole.unknown > 0
