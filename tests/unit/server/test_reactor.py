"""
Tests of the reactor on uvloop's event loop.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import uvloop
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import capturedLogs
from zope.interface.verify import verifyObject

from pexservice.server.reactor import EventLoopReactor


@pytest.fixture
def reactor() -> Iterator[EventLoopReactor]:
    """
    Provide a reactor that is not the process's own.
    """
    reactor = EventLoopReactor(uvloop.new_event_loop())
    yield reactor
    reactor.removeAll()
    reactor.loop.close()


def run(reactor: EventLoopReactor, seconds: float = 0.0) -> None:
    """
    Let the reactor make the calls that are due within C{seconds}.
    """
    reactor.loop.call_later(seconds, reactor.loop.stop)
    reactor.loop.run_forever()


def test_time(reactor: EventLoopReactor) -> None:
    """
    The reactor's seconds are the monotonic clock's, whatever the wall clock does.

    A worker's heartbeats are timed by these seconds.
    """
    before = time.monotonic()
    assert before <= reactor.seconds() <= time.monotonic()
    call = reactor.callLater(10, lambda: None)
    assert before + 10 <= call.getTime() <= time.monotonic() + 10


def test_a_call_in_the_next_turn(reactor: EventLoopReactor) -> None:
    """
    A call for the next turn is made once, and is a delayed call like any other.
    """
    calls: list[None] = []
    call = reactor.callLater(0, lambda: calls.append(None))
    verifyObject(IDelayedCall, call)
    assert call.active()
    assert call.getTime() <= reactor.seconds()
    run(reactor, 0.01)
    run(reactor, 0.01)
    assert len(calls) == 1
    assert not call.active()
    with pytest.raises(AlreadyCalled):
        call.cancel()
    with pytest.raises(AlreadyCalled):
        call.reset(1)


def test_one_that_is_cancelled(reactor: EventLoopReactor) -> None:
    """
    A cancelled call is not made, and cannot be cancelled twice.
    """
    calls: list[None] = []
    call = reactor.callLater(0, lambda: calls.append(None))
    call.cancel()
    with pytest.raises(AlreadyCancelled):
        call.cancel()
    with pytest.raises(AlreadyCancelled):
        call.delay(1)
    run(reactor, 0.01)
    assert calls == []


@pytest.mark.parametrize("how", ["reset", "delay"])
def test_one_that_is_put_off(reactor: EventLoopReactor, how: str) -> None:
    """
    A call that is put off is made at the new time, and not before.
    """
    calls: list[None] = []
    call = reactor.callLater(0, lambda: calls.append(None))
    getattr(call, how)(1000)
    assert call.getTime() == pytest.approx(reactor.seconds() + 1000, abs=100)
    run(reactor, 0.01)
    assert (calls, call.active()) == ([], True)
    call.reset(0)
    run(reactor, 0.01)
    assert len(calls) == 1


@pytest.mark.parametrize("how", ["callLater", "callFromThread"])
def test_one_that_raises(reactor: EventLoopReactor, how: str) -> None:
    """
    The error of a call that raises is logged, and the next call is made.

    Twisted's reactors log such an error in the same way.
    """
    calls: list[None] = []

    def fail() -> None:
        raise ValueError("a bug")

    with capturedLogs() as events:
        if how == "callLater":
            reactor.callLater(0, fail)
            reactor.callLater(0, lambda: calls.append(None))
        else:
            thread = threading.Thread(target=reactor.callFromThread, args=(fail,))
            thread.start()
            thread.join()
            reactor.callFromThread(calls.append, None)
        run(reactor, 0.01)
    assert len(calls) == 1
    (failure,) = [each["log_failure"] for each in events if "log_failure" in each]
    assert failure.check(ValueError)


_CHILD = """
import sys
from pexservice.server.reactor import install
install()
from twisted.internet import reactor
from twisted.internet.protocol import ProcessProtocol

class Waiting(ProcessProtocol):
    def processEnded(self, reason):
        print(reason.value.exitCode)
        reactor.stop()

def begin():
    # Without pipes, whose ends would tell of it too.
    command = [sys.executable, "-c", "import time; time.sleep(0.2); raise SystemExit(7)"]
    reactor.spawnProcess(Waiting(), command[0], command, childFDs={})

reactor.callWhenRunning(begin)
reactor.callLater(60, reactor.stop)
reactor.run()
"""


def test_the_end_of_a_child() -> None:
    """
    A child's end is noticed by the signal alone, as on Twisted's other reactors.
    """
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "7\n"
