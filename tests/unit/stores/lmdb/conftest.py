"""
The path of the store of a test.
"""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Provide the path of a store.
    """
    return tmp_path / "store"
