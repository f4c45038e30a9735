"""
A process that takes its turns when it is given them.
"""

from __future__ import annotations

import random
import signal as signals
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol, cast

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.python.failure import Failure

from pexservice.commit.committer import Committer
from pexservice.commit.interface import Step
from pexservice.process.exit_status import Status
from pexservice.process.sd_notify import ALIVE, READY, STANDBY, STOPPING, Notifier
from pexservice.process.timing import Periodic
from pexservice.stores.interface import HistoryEntry
from pexservice.supervisor.supervised_worker import MESSAGES_FD, WorkerProcess
from pexservice.worker.messages import HEARTBEATS_PER_WATCHDOG
from tests.labs.simulation.disk import CrashableStore, DiskBroke
from tests.support.fakes import MemoryStore, Turns
from tests.support.steps import CallingWaiter, Response, submit

#: Seconds of silence that are too long.
WATCHDOG = 5.0

#: What a client gets: a response to a step, an error, the revision and the position for a
#: read, or nothing because the connection broke.
Answer = Response | Exception | tuple[int, int] | None


@define(eq=False)
class Request:
    """
    A request on its way to a process, in one, or answered.

    @ivar step: C{None} for a read.
    @ivar answered: called once, with the answer to the client.
    """

    number: int
    step: Step | None
    answered: Callable[[Answer], None]
    way: int = 0
    submitted: Deferred[None] | None = None


class Phase(Enum):
    """
    The phases of a process.
    """

    BOOTING = auto()
    STANDBY = auto()
    ACTIVE = auto()
    LEAVING = auto()
    DRAINING = auto()


class Hang(Enum):
    """
    The ways in which a process does not get on.

    A process may be asleep, and deaf to all but SIGKILL.  Or a process may be awake and
    busy, so that SIGABRT ends it.
    """

    STOPPED = auto()
    STUCK = auto()


class Surroundings(Protocol):
    """
    The surroundings of a process.

    @ivar choose: the random choices, by the seed.
    @ivar disk: the disk that outlives the process.
    @ivar bugs: failures that should not have been raised.
    """

    choose: random.Random
    disk: MemoryStore
    bugs: list[Failure]

    def seconds(self) -> float:
        """
        Return the time.
        """

    def drops(self) -> bool:
        """
        Return whether this notification is lost.
        """

    def ended(self, process: Process, *, suspicious: bool) -> None:
        """
        Remove a process that has ended.

        @param suspicious: whether a bad disk can cause this end.
        """


class Process:
    """
    A worker, as far as the supervisor and callers notice.

    @ivar worker: the supervisor's record of it.
    @ivar signals: the signals that it has not taken yet.
    @ivar requests: the requests that it has accepted and not answered.
    @ivar sent: answers on their way.
    @ivar spoke_at: when the supervisor heard of it last.
    """

    def __init__(self, machine: Surroundings, worker: WorkerProcess, pid: int) -> None:
        self.machine = machine
        self.worker = worker
        self.pid = pid
        self.clock = Turns()
        self.phase = Phase.BOOTING
        self.hang: Hang | None = None
        self.alive = True
        self.status = 0
        self.signals: list[int] = []
        self.requests: list[Request] = []
        self.sent: list[tuple[Request, Answer]] = []
        self.spoke_at = machine.seconds()
        self.store = CrashableStore(disk=machine.disk)
        self.committer = Committer(
            self.store, self.clock, fatal=self._failed, time_ns=lambda: 0
        )
        self._notifier = Notifier(self._send, WATCHDOG)
        self._state: tuple[str, ...] = ()
        worker.makeConnection(cast(IProcessTransport, self))

    def __str__(self) -> str:
        return f"{self.worker.name} ({self.pid})"

    @property
    def runs(self) -> bool:
        """
        Return whether the process gets on when it is given a turn.
        """
        return self.alive and self.hang is None

    def signalProcess(self, which: str | int) -> None:
        """
        Keep a signal until the process takes it; see L{IProcessTransport}.
        """
        if not self.alive:
            raise ProcessExitedAlready
        number = signals.Signals[f"SIG{which}"] if isinstance(which, str) else which
        if number == signals.SIGABRT:
            silence = self.machine.seconds() - self.spoke_at
            assert silence > WATCHDOG, f"{self} was heard {silence} seconds ago"
        self.signals.append(number)

    def take_signals(self) -> None:
        """
        Act on the signals, as far as the process can.
        """
        for number in sorted(self.signals, reverse=True):
            if number == signals.SIGKILL or (
                number == signals.SIGABRT and self.hang is not Hang.STOPPED
            ):
                self.end(signal=number)
                return
            if number == signals.SIGTERM and self.hang is None:
                self.signals.remove(number)
                self._leave()

    def boot(self) -> None:
        """
        Start as far as the lock.
        """
        self.phase = Phase.STANDBY
        started = Deferred.fromCoroutine(self.committer.start())
        started.addCallback(self._serve).addErrback(self.machine.bugs.append)
        self._say(STANDBY)
        interval = WATCHDOG / HEARTBEATS_PER_WATCHDOG
        Periodic(self._send_heartbeat, self.clock).start(interval, now=True)

    async def _send_heartbeat(self) -> None:
        await self.committer.wait_for_commit()
        self._notifier.notify(ALIVE, *self._state)

    def _serve(self, _: None) -> None:
        self.phase = Phase.ACTIVE
        self._say(READY, "STATUS=serving")

    def _say(self, *state: str) -> None:
        self._state = state
        self._notifier.notify(*state)

    def _send(self, message: bytes) -> None:
        if self.machine.drops():
            return
        self.spoke_at = self.machine.seconds()
        self.worker.childDataReceived(MESSAGES_FD, message)

    def turn(self) -> None:
        """
        Take one turn of the process's reactor.
        """
        self.clock.rightNow = self.machine.seconds()
        self.clock.turn()

    def accept(self, request: Request) -> None:
        """
        Hand C{request} to the committer, in one of the ways that there are.
        """
        self.requests.append(request)
        committer, step = self.committer, request.step

        def done(answer: Answer) -> None:
            if request in self.requests:
                self.requests.remove(request)
                self.sent.append((request, answer))

        def seen(rows: list[HistoryEntry]) -> None:
            done((rows[0].revision, rows[0].position) if rows else (0, 0))

        def shown(response: Response) -> None:
            done((response.state.revision, response.state.position))

        if step is None and request.way:
            committer.history(committer.durable.revision + 1, 1).addCallback(seen)
        elif step is None:
            committer.read(CallingWaiter(shown, done))
        elif step.key is None and request.way:
            committer.step(step, CallingWaiter(done, done))
        else:
            request.submitted = submit(committer, step).addCallbacks(
                done, lambda failure: done(failure.value)
            )

    def hang_up(self, request: Request) -> None:
        """
        Forget C{request}, whose client is gone.
        """
        self.requests.remove(request)
        if request.submitted is not None:
            request.submitted.cancel()
        request.answered(None)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(DiskBroke):
            self.machine.bugs.append(failure)
        self._leave(Status.STORE_FAILED)

    def _leave(self, status: int = 0) -> None:
        if self.phase in (Phase.BOOTING, Phase.STANDBY):
            self.end(status=0)
        elif self.phase is Phase.ACTIVE:
            self.phase = Phase.LEAVING
            self.status = status
            self._say(STOPPING)

    def drain(self) -> None:
        """
        Stop the committer, and end; the process has said its farewells.
        """
        self.phase = Phase.DRAINING
        stopped = Deferred.fromCoroutine(self.committer.stop())
        stopped.addCallback(lambda _: self.end(status=self.status))
        stopped.addErrback(self.machine.bugs.append)

    def end(self, *, status: int = 0, signal: int | None = None) -> None:
        """
        End the process.
        """
        if not self.alive:
            return
        self.alive = False
        suspicious = status == Status.STORE_FAILED or signal == signals.SIGABRT
        self.machine.ended(self, suspicious=suspicious)
        requests, self.requests = self.requests, []
        for request in requests:
            request.answered(None)
        sent, self.sent = self.sent, []
        for request, answer in sent:
            request.answered(answer if self.machine.choose.random() < 1 / 2 else None)
        reason = ProcessTerminated(status, signal) if status or signal else ProcessDone(0)
        self.worker.processEnded(Failure(reason))
