"""
The short form: operations on processes, files and the store.
"""

from __future__ import annotations

from pathlib import Path

from tests.labs.seams.lab import WEIGHTS, seams
from tests.support.forms import amount


def test_service_recovers_after_each_operation_and_serves_one_store(tmp_path: Path) -> None:
    """
    No acknowledged step is lost or made twice, and no process or file is left.
    """
    assert seams(tmp_path, amount(short=len(WEIGHTS), long=100)) > len(WEIGHTS)
