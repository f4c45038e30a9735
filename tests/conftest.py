"""
What holds for every test.
"""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> object:
    """
    Where C{CI} is set, a skipped test has failed: what was not run was not shown.
    """
    report: pytest.TestReport = yield
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> object:
    """
    The same for a module that skips itself.
    """
    report: pytest.CollectReport = yield
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report
