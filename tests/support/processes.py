"""
A fake reactor whose child processes are controlled by a test.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import (
    IProcessTransport,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.supervisor.supervised_worker import MESSAGES_FD
from tests.support.fakes import Turns

#: The length of a turn.  Seconds, without a rounding error however many there are.
TURN = 1 / 16


@define(eq=False)
class SpawnedProcess:
    """
    A child process that a test controls.

    It has only those methods of L{IProcessTransport} that the supervisor calls.

    @ivar descriptors: C{childFDs} of C{spawnProcess}: descriptors of the parent by those of
        the child.
    @ivar signals: the signals that were sent to the process.
    """

    pid: int
    protocol: ProcessProtocol
    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Mapping[int, object]
    signals: list[signal.Signals] = field(factory=list)
    alive: bool = True

    def signalProcess(self, signalID: str | int) -> None:
        """
        Record the signal.
        """
        if not self.alive:
            raise ProcessExitedAlready
        self.signals.append(signal.Signals(int(signalID)))

    def write_output(self, data: bytes, descriptor: int = 1) -> None:
        """
        Write to the standard output or standard error of the process.
        """
        self.protocol.childDataReceived(descriptor, data)

    def notify(self, *lines: str) -> None:
        """
        Send a message from the process to the supervisor.
        """
        self.write_output("".join(f"{line}\n" for line in lines).encode(), MESSAGES_FD)

    def end(self, *, status: int = 0, by: int | None = None) -> None:
        """
        End the process with a status or by a signal.
        """
        self.alive = False
        self.protocol.childConnectionLost(MESSAGES_FD)
        reason = ProcessTerminated(status, by) if status or by else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))


@implementer(IReactorProcess, IReactorTime, IReactorFromThreads)
class ProcessReactor(MemoryReactor, Turns):
    """
    A reactor that spawns L{SpawnedProcess}.

    @ivar spawned: all processes, the oldest first.
    @ivar spawn_error: the exception that C{spawnProcess} raises.
    """

    def __init__(self) -> None:
        MemoryReactor.__init__(self)
        Turns.__init__(self)
        self.spawned: list[SpawnedProcess] = []
        self.spawn_error: Exception | None = None
        self._pids = itertools.count(101)

    def spawnProcess(  # type: ignore[override]
        self,
        processProtocol: ProcessProtocol,
        executable: str,
        args: Sequence[str],
        env: Mapping[str, str],
        *,
        childFDs: Mapping[int, object],
    ) -> IProcessTransport:
        if self.spawn_error is not None:
            raise self.spawn_error
        assert executable == args[0]
        process: Any = SpawnedProcess(
            next(self._pids), processProtocol, args, env, childFDs
        )
        self.spawned.append(process)
        processProtocol.makeConnection(process)
        return process  # type: ignore[no-any-return]

    def callFromThread(
        self, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        """
        Call C{callable} in the next iteration.
        """
        self.callLater(0, callable, *args, **kwargs)

    def turns(self, seconds: float) -> None:
        """
        Let C{seconds} pass in steps of L{TURN} seconds.
        """
        for _ in range(round(seconds / TURN)):
            self.turn(TURN)
        self.turn()
