"""
C{docs/operations.md} explains each exit status and each problem of the service.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pexservice.process.exit_status import Status
from pexservice.web import problems

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

#: A problem of each kind.
PROBLEMS = [
    kind("", "")
    for kind in vars(problems).values()
    if isinstance(kind, problems.ProblemKind)
]


@pytest.mark.parametrize("status", Status)
def test_page_explains_each_exit_status(status: Status) -> None:
    assert f"\n| {status.value} | `{status.name}` |" in PAGE


def test_page_explains_each_problem_with_status_500_or_more() -> None:
    server_errors = [problem for problem in PROBLEMS if problem.status >= 500]
    assert len(server_errors) >= 4
    for problem in server_errors:
        assert f"\n| `{problem.name}` | {problem.status.value} |" in PAGE
