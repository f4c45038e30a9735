"""
How the process ends.
"""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from twisted.internet.error import ReactorNotRunning
from twisted.internet.testing import MemoryReactor

from pexservice.process.exit_status import Leaving, Status


class Stopping(MemoryReactor):
    """
    A reactor that is stopping already.
    """

    def callWhenRunning(self, callable: object, *args: object, **kwargs: object) -> None:
        """
        At once, as a reactor does that has started.
        """
        callable(*args, **kwargs)  # type: ignore[operator]

    def stop(self) -> None:
        """
        As Twisted's reactors do.
        """
        raise ReactorNotRunning


def test_while_it_is_stopping() -> None:
    """
    The last commit of all may fail.  That is said and no error of its own, or who
    asked for the step would get no answer.
    """
    at_exit: list[object] = []
    leaving = Leaving(
        Stopping(), terminal=False, at_exit=lambda *call: at_exit.append(call[1])
    )
    leaving.leave(Status.STORE_FAILED, "the store failed")
    assert leaving.leaving
    assert at_exit == [Status.STORE_FAILED]


class Full(io.StringIO):
    """
    Standard error on a full disk.
    """

    def write(self, _: str) -> int:
        """
        As it fails there.
        """
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_where_nothing_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It ends all the same: who went on would refuse every step for good.
    """
    monkeypatch.setattr(sys, "__stderr__", Full())
    reactor = MemoryReactor()
    Leaving(reactor, at_exit=lambda *_: None).leave(Status.STORE_FAILED, "it failed")
    ((stop, _, __),) = reactor.whenRunningHooks
    stop()
    assert reactor.hasStopped
