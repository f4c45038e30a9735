"""
Command-line options, markers and reports for all tests.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.forms import set_long
from tests.support.needs import NEEDS, advice, missing

# On a busy machine an example may take longer than Hypothesis's default deadline.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


# Tests of the client need pyOpenSSL.  If this process imports the command line first, that
# prevents its import; see pexservice.process.pyopenssl_guard.
with suppress(ImportError):
    import_module("OpenSSL")

_FAULT_INJECTION_TESTS = Path(__file__).parent / "labs"

#: With C{pytest -n}, tests whose ids begin alike and share a group run in one process, one
#: after the other.  Fault-injection tests and the image test change the machine's memory,
#: mounts and clock.  The other groups share a browser or services.
_GROUPS = {
    "tests/labs/": "the machine",
    "tests/packaging/test_image.py": "the machine",
    "tests/functional/test_page.py": "the page",
    "tests/functional/test_cross_origin.py": "pages of other origins",
    "tests/functional/test_hostile_clients.py": "hostile clients",
    "tests/functional/test_streams.py": "streams",
    "tests/functional/test_wire.py": "wire",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run tests in their long form")
    parser.addoption(
        "--system",
        action="store_true",
        help="also run the tests for which make system builds a package and a machine",
    )


def pytest_configure(config: pytest.Config) -> None:
    """
    Choose the short or long form of the tests, and make their processes react to SIGINT.
    """
    set_long(config.getoption("long"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell makes its background commands ignore SIGINT, and child processes inherit
        # this.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Mark the fault-injection tests, and deselect the tests that have only a long form.
    """
    for item in items:
        if item.path.is_relative_to(_FAULT_INJECTION_TESTS):
            item.add_marker(pytest.mark.lab)
    if not config.getoption("long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """
    Ignore the tests of the whole system unless C{--system} was given.
    """
    system = collection_path == Path(__file__).parent / "packaging" / "system"
    return True if system and not config.getoption("system") else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """
    Skip a test whose requirements this machine lacks, before its fixtures are set up.
    """
    needed = {name for marker in item.iter_markers("needs") for name in marker.args}
    if lacking := missing(sorted(needed)):
        item.user_properties += [("lacking", name) for name in lacking]
        pytest.skip("; ".join(map(advice, lacking)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """
    Return the number of processes for C{-n auto}.

    Most tests wait for a daemon half of the time.  Their long forms load the processors.
    """
    processors = os.cpu_count() or 1
    return processors if config.getoption("long") else 2 * processors


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Distribute single tests to the processes, except that a group stays in one process.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    scheduler = LoadScopeScheduling(config, log)
    # The scheduler's documentation lets subclasses override this method.
    scheduler._split_scope = _group
    return scheduler


def _group(nodeid: str) -> str:
    """
    Return the group of the test, or the test's own id if it is in no group.
    """
    return next(
        (name for start, name in _GROUPS.items() if nodeid.startswith(start)), nodeid
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    If C{CI} is set, turn a skipped test into a failure, because it has checked nothing.

    pytest also reports an expected failure as skipped.  It stays as it is, because the test
    names the issue that it waits for.
    """
    report = yield
    if not hasattr(report, "wasxfail"):
        _fail_if_skipped_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[
    None, pytest.CollectReport, pytest.CollectReport
]:
    """
    If C{CI} is set, turn a module that skips itself into a failure.
    """
    report = yield
    _fail_if_skipped_in_ci(report)
    return report


def _fail_if_skipped_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """
    List the requirements that skipped tests lacked, and how to install each of them.
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
    terminalreporter.section("skipped because this machine lacks")
    width = max(map(len, lacking))
    for name, count in lacking.most_common():
        terminalreporter.line(f"{count:5}  {name:{width}}  {NEEDS[name].remedy}")
