"""
A thousand slow clients, for a few seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.attacks.slow import attack_all, keep

pytestmark = pytest.mark.once

SECONDS = 8


@pytest.mark.needs("slowhttptest")
def test_slow_clients(tmp_path: Path) -> None:
    """
    Slow headers, slow bodies, slow reading: others are answered all the while.
    """
    keep(SECONDS, [attack_all(tmp_path, "pexservice", SECONDS)])
