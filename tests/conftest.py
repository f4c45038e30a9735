"""
What holds for every test.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    C{--system}: also those that C{make system} builds a package and a machine for.
    """
    parser.addoption("--system", action="store_true")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """
    The others do not need either.
    """
    system = collection_path == Path(__file__).parent / "packaging" / "system"
    return True if system and not config.getoption("system") else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    Where C{CI} is set, a skipped test has failed: what was not run was not shown.
    """
    report = yield
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[
    None, pytest.CollectReport, pytest.CollectReport
]:
    """
    The same for a module that skips itself.
    """
    report = yield
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report
