"""
The end of the process: its status and its reason.
"""

from __future__ import annotations

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


def test_failure_while_the_reactor_stops_is_reported() -> None:
    """
    The exception of a stopping reactor keeps no response from a client.
    """
    stopping, at_exit = Mock(), Mock()
    stopping.callWhenRunning = lambda function: function()
    stopping.stop.side_effect = ReactorNotRunning
    process_exit = ProcessExit(stopping, terminal=False, at_exit=at_exit)
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
    process_exit = ProcessExit(reactor, at_exit=lambda *_: None)
    process_exit.exit_with(Status.STORE_FAILED, "it failed")
    ((stop, _, __),) = reactor.whenRunningHooks
    stop()
    assert reactor.hasStopped


def test_reason_is_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", terminal)
    for seen in (True, False):
        process_exit = ProcessExit(MemoryReactor(), terminal=seen, at_exit=lambda *_: None)
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


@pytest.mark.parametrize(("loop", "status"), [("reactor.stop()", 0), ("1 / 0", 1)])
def test_broken_reactor_ends_the_process_with_status_1(loop: str, status: int) -> None:
    """
    Without this, twistd would end with status 0.
    """
    program = f"""
from contextlib import suppress
from twisted.internet import reactor
from pexservice.process.exit_status import ProcessExit
ProcessExit(reactor).watch_reactor()
def mainLoop():
    {loop}
    reactor.runUntilCurrent()
reactor.mainLoop = mainLoop
with suppress(ZeroDivisionError):
    reactor.run()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    message = (
        "pexservice: the reactor broke down; the log has the reason\n" if status else ""
    )
    assert (ended.returncode, ended.stderr) == (status, message)
