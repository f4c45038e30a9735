"""
Tests of the reactor on uvloop's event loop.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvloop
from twisted.logger import capturedLogs

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


def test_seconds_are_those_of_the_monotonic_clock(reactor: EventLoopReactor) -> None:
    """
    The reactor's seconds are the monotonic clock's, whatever the wall clock does.

    A worker's heartbeats are timed by these seconds.
    """
    before = time.monotonic()
    assert before <= reactor.seconds() <= time.monotonic()
    call = reactor.callLater(10, lambda: None)
    assert before + 10 <= call.getTime() <= time.monotonic() + 10


def call_from_a_thread(reactor: EventLoopReactor, call: Callable[[], None]) -> None:
    thread = threading.Thread(target=reactor.callFromThread, args=(call,))
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda reactor, call: reactor.callLater(0, call),
        lambda reactor, call: reactor.loop.call_soon(call),
        call_from_a_thread,
    ],
)
def test_error_of_a_call_is_logged_and_the_next_call_is_made(
    reactor: EventLoopReactor,
    schedule: Callable[[EventLoopReactor, Callable[[], object]], object],
) -> None:
    calls: list[None] = []

    def fail() -> None:
        raise ValueError("a bug")

    with capturedLogs() as events:
        schedule(reactor, fail)
        schedule(reactor, lambda: calls.append(None))
        reactor.loop.call_later(0.01, reactor.loop.stop)
        reactor.loop.run_forever()
    assert len(calls) == 1
    (failure,) = [event["log_failure"] for event in events if "log_failure" in event]
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


def test_end_of_a_child_process_is_noticed_by_its_signal_alone() -> None:
    """
    A child's end is noticed by the signal alone, as on Twisted's other reactors.
    """
    ended = subprocess.run(
        [sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "7\n"
