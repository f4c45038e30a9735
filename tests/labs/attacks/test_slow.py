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
    Other clients are answered all the while that slow ones send headers or bodies, or read.
    """
    keep(SECONDS, [attack_all(tmp_path, "pexservice", SECONDS)])
