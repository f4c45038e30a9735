"""
The options, marks and reports of all tests.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.forms import set_long
from tests.support.needs import NEEDS, advice, missing

# A busy machine is no failure of the code under test.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


_LABORATORIES = Path(__file__).parent / "labs"

#: Where C{-n} shares the tests out to processes: the tests that go to the same process, by
#: how their names begin.  Laboratories take the machine's memory, mounts and clock, and the
#: image's layers are mounts; the others prepare much for all the tests of a module.
_TOGETHER = {
    "tests/labs/": "the machine",
    "tests/packaging/test_image.py": "the machine",
    "tests/functional/test_page.py": "the browser",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Add the options of these tests.
    """
    parser.addoption("--long", action="store_true", help="run tests in their long form")
    parser.addoption(
        "--system",
        action="store_true",
        help="also run the tests for which make system builds a package and a machine",
    )


def pytest_configure(config: pytest.Config) -> None:
    """
    Choose the form of the tests, and let the processes that they start heed SIGINT.
    """
    set_long(config.getoption("long"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell makes the commands that it starts in the background ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Mark the laboratories, and leave out the tests that have a long form only.
    """
    for item in items:
        if item.path.is_relative_to(_LABORATORIES):
            item.add_marker(pytest.mark.lab)
    if not config.getoption("long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """
    Leave the tests of the system alone where they were not asked for.
    """
    system = collection_path == Path(__file__).parent / "packaging" / "system"
    return True if system and not config.getoption("system") else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """
    Skip a test that needs something this machine lacks, before its fixtures are set up.
    """
    needed = {name for marker in item.iter_markers("needs") for name in marker.args}
    if lacking := missing(sorted(needed)):
        item.user_properties += [("lacking", name) for name in lacking]
        pytest.skip("; ".join(map(advice, lacking)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Share the tests out one by one, except for the tests that stay together.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    scheduler = LoadScopeScheduling(config, log)
    # Subclasses of the scheduler are documented to override this method.
    scheduler._split_scope = _shared_out_as
    return scheduler


def _shared_out_as(nodeid: str) -> str:
    """
    Return the name of all the tests that stay with this one, or the test's own.
    """
    return next(
        (name for start, name in _TOGETHER.items() if nodeid.startswith(start)), nodeid
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    Fail a test that was skipped where C{CI} is set: nothing was shown by it.

    A test that is expected to fail, and did, is reported as skipped too; such a test is let
    through because it names the issue that it waits for.
    """
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[
    None, pytest.CollectReport, pytest.CollectReport
]:
    """
    Fail a module that skips itself where C{CI} is set.
    """
    report = yield
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """
    Say at the end what was skipped, and how this machine would get what tests lacked.
    """
    yield
    reports = [
        report
        for outcome in ("skipped", "failed", "error")
        for report in terminalreporter.stats.get(outcome, ())
    ]
    lacking = Counter(
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "lacking"
    )
    if not lacking:
        return
    terminalreporter.section("skipped for what this machine lacks")
    width = max(map(len, lacking))
    for name, count in lacking.most_common():
        terminalreporter.line(f"{count:5}  {name:{width}}  {NEEDS[name].remedy}")
