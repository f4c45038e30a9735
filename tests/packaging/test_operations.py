"""
C{docs/operations.md} leaves out nothing that an operator may be told.
"""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from pexservice.process.exit_status import Status
from pexservice.web import problems

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

#: Each problem's status and name, as the module says them.
PROBLEMS = [
    (HTTPStatus[status], name)
    for status, name in re.findall(
        r'status=HTTPStatus\.(\w+),\s+name="([a-z-]+)"', inspect.getsource(problems)
    )
]


@pytest.mark.parametrize("status", Status)
def test_page_explains_each_exit_status(status: Status) -> None:
    assert f"\n| {status.value} | `{status.name}` |" in PAGE


def test_page_explains_each_problem_with_status_500_or_more() -> None:
    ours = [(name, status) for status, name in PROBLEMS if status >= 500]
    assert len(ours) >= 4
    for name, status in ours:
        assert f"\n| `{name}` | {status.value} |" in PAGE
