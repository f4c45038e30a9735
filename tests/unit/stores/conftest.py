"""
A scoreboard for tests of stores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pexservice.process import scoreboard


@pytest.fixture
def board() -> Iterator[int]:
    """
    Provide the descriptor of a scoreboard.
    """
    board = scoreboard.create()
    yield board
    os.close(board)
