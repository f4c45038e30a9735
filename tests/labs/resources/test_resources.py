"""
In every shortage, no acknowledged step is lost, and the service continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.labs.resources.lab import SHORTAGES, record_result

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def acknowledged() -> Iterator[list[int]]:
    """
    Provide a list for the number of steps that each shortage had acknowledged.
    """
    steps: list[int] = []
    yield steps
    if steps:
        record_result(len(steps), sum(steps))


@pytest.mark.parametrize(
    "shortage",
    [
        pytest.param(shortage, id=shortage.__name__, marks=pytest.mark.needs(*needed))
        for shortage, needed in SHORTAGES.items()
    ],
)
def test_each_shortage_has_only_the_documented_effect(
    shortage: Callable[[Path], int], tmp_path: Path, acknowledged: list[int]
) -> None:
    acknowledged.append(shortage(tmp_path))
