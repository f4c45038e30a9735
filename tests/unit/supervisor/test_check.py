"""
The check before the first start.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from attrs import define, field
from twisted.logger import capturedLogs

from pexservice.process.exit_status import Status
from pexservice.process.start_signals import StartSignals
from pexservice.supervisor.check import Check, Refused

STORE = "/srv/store"


@define
class Signals(StartSignals):
    """
    Signals that the test sends, and a wait that takes no time.

    @ivar most: the number of waits after which the process is asked to end.
    @ivar slept: the waits, in seconds.
    """

    most: int = 1000
    slept: list[float] = field(factory=list)

    def __attrs_pre_init__(self) -> None:
        """
        Initialize the base class.
        """
        super().__init__()

    def sleep(self, seconds: float) -> None:
        """
        Note the wait, and end the process after the last one.
        """
        self.slept.append(seconds)
        if len(self.slept) >= self.most:
            self.terminate()


def check(
    program: str,
    *arguments: str,
    signals: StartSignals | None = None,
    progress: list[int] | None = None,
) -> None:
    """
    Run C{program} as the check in a child.
    """
    Check(
        [sys.executable, "-c", f"import os, sys, time\n{program}", *arguments],
        STORE,
        (progress if progress is not None else []).append,
        signals or Signals(),
    ).run()


def refused(program: str) -> tuple[Status, str]:
    """
    Return the status and the reason with which the check of C{program} is refused.
    """
    with pytest.raises(Refused) as raised:
        check(program)
    return raised.value.exit_status, str(raised.value)


def test_a_worker_would_start() -> None:
    """
    A check that ends with status 0 passes, whatever it prints.
    """
    check("print('all is well')")


@pytest.mark.parametrize(
    ("status", "known"),
    [
        (1, Status.CANNOT_START),
        (64, Status.MISCONFIGURED),
        (78, Status.DAMAGED),
        (99, Status.CANNOT_START),
    ],
)
def test_a_worker_would_not_start(status: int, known: Status) -> None:
    """
    The last line of a failed check is the reason, and its status says of what kind it is.
    """
    found = refused(f"print('by the way'); print('the reason'); sys.exit({status})")
    assert found == (known, "the reason")


def test_without_a_word() -> None:
    """
    A check that ends without a line is reported with its status and the store's name.

    The name is the one that the operator has for the store.
    """
    assert refused("sys.exit(1)") == (
        Status.CANNOT_START,
        f"the check of {STORE} ended with status 1",
    )


def test_a_traceback() -> None:
    """
    The reason of a check that ends by a bug is the last line of the traceback.
    """
    assert refused("raise ValueError('a bug')")[1] == "ValueError: a bug"


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT])
def test_reading_was_its_end(number: signal.Signals) -> None:
    """
    A check that is killed by SIGBUS, SIGSEGV or SIGABRT means a damaged store.

    Reading such a store ends a process in that way.
    """
    status, reason = refused(f"os.kill(os.getpid(), {number.value})")
    assert status is Status.DAMAGED
    assert reason.startswith(
        f"the store {STORE} is damaged: reading it ended by {number.name}"
    )


def test_one_that_was_killed_is_repeated(tmp_path: Path) -> None:
    """
    A check that was killed by SIGKILL is repeated after the delay of a worker.

    The cause is another process, or the kernel when memory is short.
    """
    signals = Signals()
    with capturedLogs() as events:
        check(
            "tries = open(sys.argv[1], 'a+'); tries.write('x'); tries.flush();"
            " tries.seek(0); len(tries.read()) < 4 and os.kill(os.getpid(), 9)",
            str(tmp_path / "tries"),
            signals=signals,
        )
    assert [each["log_level"].name for each in events] == ["warn"] * 3
    assert signals.slept == [0.05, 0.1, 0.2]


def test_it_is_not_repeated_for_ever() -> None:
    """
    A killed check is not repeated once the process is asked to end.
    """
    signals = Signals(most=3)
    check("os.kill(os.getpid(), 9)", signals=signals)
    assert len(signals.slept) == 3


def test_its_progress() -> None:
    """
    The progress of the check is passed on, and is not the reason.
    """
    progress: list[int] = []
    program = "print('progress 7'); print('progress 41'); print('progress'); print('')"
    check(program, progress=progress)
    assert progress == [7, 41]
    found = refused("print('the reason'); print('progress 99'); sys.exit(1)")
    assert found[1] == "the reason"


def test_the_process_is_asked_to_end() -> None:
    """
    A process that is asked to end kills the check, and refuses nothing.

    This holds also for a check that was about to start.
    """
    signals = StartSignals()

    def ask() -> None:
        signals.terminate()

    timer = threading.Timer(0.2, ask)
    timer.start()
    began = time.monotonic()
    check("time.sleep(1000)", signals=signals)
    assert time.monotonic() - began < 500
    timer.join()
    check("sys.exit(1)", signals=signals)


def test_it_cannot_be_started() -> None:
    """
    A check that cannot be started is refused with the reason.

    An example is a machine without room for another process.
    """
    with pytest.raises(Refused, match=f"cannot start the check of {STORE}: No such file"):
        Check(["/nowhere/python"], STORE, print, StartSignals()).run()


def test_a_child_that_says_much() -> None:
    """
    Only the last line of a child's output is kept, and it is cut.
    """
    assert len(refused("print('x' * 1_000_000); sys.exit(1)")[1]) <= 8192
