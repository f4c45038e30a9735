"""
A thousand slow clients for a few seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.attacks.slow import attack_all, record_waits

pytestmark = pytest.mark.once

SECONDS = 8


@pytest.mark.needs("slowhttptest")
def test_slow_clients_do_not_delay_others(tmp_path: Path) -> None:
    record_waits(SECONDS, [attack_all(tmp_path, "pexservice", SECONDS)])
