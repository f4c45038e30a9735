"""
A thousand slow clients, for a few seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.attacks.slow import SLOWHTTPTEST, attack_all, keep

SECONDS = 8


def test_slow_clients(tmp_path: Path) -> None:
    """
    Slow headers, slow bodies, slow reading: others are answered all the while.
    """
    if SLOWHTTPTEST is None:
        pytest.skip("slowhttptest is not installed")
    keep(SECONDS, [attack_all(tmp_path, "pexservice", SECONDS)])
