"""
A child process that reads a store: its words are passed on, and its end is judged.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

import pytest
from twisted.internet.task import Clock

from pexservice.stores.errors import (
    ReadingChildKilled,
    StoreDamaged,
    StoreError,
    StoreIncompatible,
)
from pexservice.stores.lmdb.child import (
    REPORT_INTERVAL_SECONDS,
    Progress,
    child_main,
    run_child,
)

STORE = Path("/the/store")

IMPORTS = """
import os, sys, time
from pathlib import Path
from pexservice.process.exit_status import Misconfigured
from pexservice.stores.errors import *
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Return the file of a module that a child can import by the name C{child_module}.
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "child_module.py"


def ask(module: Path, text: str, progress: Progress = lambda _: None) -> None:
    """
    Run C{text}, as the body of a function, in a child.
    """
    module.write_text(
        f"{IMPORTS}def read(path, argument, progress):\n{indent(text, '    ')}"
    )

    def read(path: Path, argument: Path, progress: Progress) -> None:
        raise NotImplementedError

    read.__module__ = module.stem
    run_child(read, STORE, Path("argument"), progress=progress)


def test_progress_of_a_child_is_reported_while_it_runs(module: Path) -> None:
    """
    Its other lines do not disturb, and 0 % is reported before the child runs.
    """
    percentages: list[int] = []
    child = """
print("progress 1", flush=True)
print("something else", flush=True)
print("progress nothing", flush=True)
print("progress 99", flush=True)
assert (path, argument) == (Path("/the/store"), Path("argument"))
"""
    ask(module, child, percentages.append)
    assert percentages == [0, 1, 99]


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("raise StoreDamaged('bad')", StoreDamaged, "^bad$"),
        ("raise Misconfigured('wrong')", StoreIncompatible, "^wrong$"),
        ("sys.exit(1)", StoreError, "/the/store cannot be read"),
        ("raise ValueError('bug')", StoreError, "^ValueError: bug$"),
        ("os.kill(os.getpid(), 7)", StoreDamaged, "/the/store is damaged.*signal 7"),
        ("os.kill(os.getpid(), 9)", ReadingChildKilled, "signal 9 ended the process"),
    ],
)
def test_end_of_a_child_raises_the_error_of_its_status(
    module: Path, end: str, error: type[Exception], message: str
) -> None:
    """
    With the child's words, except those about progress.
    """
    with pytest.raises(error, match=message) as caught:
        ask(module, f"progress(5)\n{end}")
    assert caught.type is error


def test_child_is_killed_when_its_progress_cannot_be_reported(module: Path) -> None:

    def failing(percent: int) -> None:
        # The report of 0 % comes before the child runs.
        if percent:
            raise KeyboardInterrupt

    pid = module.with_name("pid")
    with pytest.raises(KeyboardInterrupt):
        ask(
            module,
            f"""
Path({str(pid)!r}).write_text(str(os.getpid()))
print("progress 5", flush=True)
time.sleep(60)
""",
            failing,
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_child_ends_when_no_process_reads_its_output(module: Path) -> None:
    """
    With its next line of progress.
    """
    module.write_text(
        """
import time

def read(progress):
    while True:
        progress(5)
        time.sleep(0.01)
"""
    )
    command = [sys.executable, "-m", "pexservice.stores.lmdb.child", "child_module.read"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"progress 5\n"
        child.stdout.close()
        assert child.wait(60) != 0


def test_progress_is_written_at_once_and_then_once_in_each_interval(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.seconds)

    def read(progress: Progress) -> None:
        for percent, intervals in ((0, 0), (10, 0), (20, 0.5), (39, 1), (50, 1), (100, 11)):
            clock.rightNow = intervals * REPORT_INTERVAL_SECONDS
            progress(percent)

    assert child_main(read) == 0
    assert capfd.readouterr().out == "progress 0\nprogress 39\nprogress 100\n"
