"""
The end of the process: its status and its reason.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
from twisted.internet.error import ReactorNotRunning
from twisted.internet.testing import MemoryReactor

from pexservice.process.exit_status import (
    CannotStart,
    Misconfigured,
    ProcessExit,
    Status,
    cannot_use,
)


@pytest.fixture(autouse=True)
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """
    Provide what this process would call at its end.
    """
    at_exit = Mock()
    monkeypatch.setattr(atexit, "register", at_exit)
    return at_exit


def test_failure_while_the_reactor_stops_is_reported(at_exit: Mock) -> None:
    """
    The exception of a stopping reactor keeps no response from a client.
    """
    stopping = Mock()
    stopping.callWhenRunning = lambda function: function()
    stopping.stop.side_effect = ReactorNotRunning
    process_exit = ProcessExit(stopping, terminal=False)
    process_exit.exit_with(Status.STORE_FAILED, "the store failed")
    process_exit.exit_with(Status.CANNOT_START, "something that follows from it")
    assert process_exit.reason == "the store failed"
    assert at_exit.call_args.args[1] == Status.STORE_FAILED
    at_exit.assert_called_once()


def test_process_that_cannot_write_its_reason_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If the process continued, it would refuse every step.
    """
    full = Mock(write=Mock(side_effect=OSError(errno.ENOSPC, "the disk is full")))
    monkeypatch.setattr(sys, "__stderr__", full)
    reactor = MemoryReactor()
    process_exit = ProcessExit(reactor)
    process_exit.exit_with(Status.STORE_FAILED, "it failed")
    ((stop, _, __),) = reactor.whenRunningHooks
    stop()
    assert reactor.hasStopped


def test_reason_is_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", terminal)
    for seen in (True, False):
        process_exit = ProcessExit(MemoryReactor(), terminal=seen)
        process_exit.exit_with(Status.CANNOT_START, "it cannot")
    assert terminal.getvalue() == "pexservice: it cannot\n"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, Misconfigured),
        (errno.EACCES, Misconfigured),
        (errno.EMFILE, CannotStart),
        (errno.ENOSPC, CannotStart),
    ],
)
def test_error_number_decides_whether_a_restart_may_help(
    number: int, kind: type[CannotStart]
) -> None:
    error = cannot_use("the file x", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error) == f"the file x: {os.strerror(number)}"


def test_broken_reactor_ends_the_process_with_status_1() -> None:
    """
    Without this, twistd would end with status 0.
    """
    program = """
from contextlib import suppress
from twisted.internet import reactor
from pexservice.process.exit_status import ProcessExit
ProcessExit(reactor).watch_reactor()
reactor.mainLoop = lambda: 1 / 0
with suppress(ZeroDivisionError):
    reactor.run()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    message = "pexservice: the reactor broke down; the log has the reason\n"
    assert (ended.returncode, ended.stderr) == (1, message)
