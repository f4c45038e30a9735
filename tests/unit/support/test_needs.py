"""
The outcome of a test that needs something which the machine lacks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest
from tests.support.needs import NEEDS, Need

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.fixture
def built():
    raise AssertionError("the needs are looked at first")

@pytest.mark.needs("steam", "water")
def test_both(built): pass

@pytest.mark.needs("water")
def test_one(built): pass

@pytest.mark.needs("air")
def test_none(): pass

@pytest.mark.xfail(strict=True, reason="issue 1")
def test_later(): raise AssertionError
"""


@pytest.fixture
def machine(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """
    Provide a test run on a machine that lacks steam and water, and has air.
    """
    monkeypatch.setitem(NEEDS, "steam", Need("apt install steamd", lambda: False))
    monkeypatch.setitem(NEEDS, "water", Need("apt install waterd", lambda: False))
    monkeypatch.setitem(NEEDS, "air", Need("breathe", lambda: True))
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest(Path(conftest.__file__).read_text())
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nmarkers = ['needs(*names): x']")
    pytester.makepyfile(TESTS)
    return pytester


def test_run_with_skipped_tests_succeeds_and_lists_the_remedies(
    machine: pytest.Pytester,
) -> None:
    ran = machine.runpytest_inprocess("-rs")
    ran.assert_outcomes(passed=1, skipped=2, xfailed=1)
    ran.stdout.fnmatch_lines(
        [
            "*needs steam: apt install steamd; needs water: apt install waterd",
            "*skipped because this machine lacks*",
            "    2  water  apt install waterd",
            "    1  steam  apt install steamd",
        ]
    )


def test_skipped_test_fails_under_ci(
    machine: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A test that is expected to fail does not.
    """
    monkeypatch.setenv("CI", "true")
    ran = machine.runpytest_inprocess()
    ran.assert_outcomes(passed=1, errors=2, xfailed=1)
    ran.stdout.fnmatch_lines(["    2  water  apt install waterd"])
