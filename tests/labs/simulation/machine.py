"""
The simulated machine: its disk, its worker processes and their supervisor.
"""

from __future__ import annotations

import random
import signal as signals
from collections.abc import Callable
from enum import Enum, auto
from typing import cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.committer import Committer
from pexservice.commit.interface import Step
from pexservice.core.cursor import Cursor
from pexservice.process.exit_status import Status
from pexservice.process.sd_notify import ALIVE, READY, STANDBY, STOPPING, Notifier
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.process.timing import Periodic
from pexservice.stores.errors import OutcomeUnknown
from pexservice.stores.interface import Batch, HistoryEntry, IExclusiveStore
from pexservice.supervisor.reporter import Reporter
from pexservice.supervisor.supervised_worker import (
    MESSAGES_FD,
    SupervisedWorker,
    SupervisorReactor,
)
from pexservice.supervisor.worker_pool import WorkerPool
from pexservice.supervisor.worker_setup import WorkerSetup
from pexservice.worker.messages import HEARTBEATS_PER_WATCHDOG
from tests.support.fakes import MemoryStore, Turns
from tests.support.steps import CallingWaiter, Response


class DiskError(OutcomeUnknown):
    """
    The error of a commit that may or may not have reached the disk.
    """


@implementer(IExclusiveStore)
@define(eq=False)
class CrashableStore(MemoryStore):
    """
    The store of one process on the common disk.

    @ivar disk: survives the process.
    @ivar opened: fires when the process has the lock.
    @ivar is_written: the batch in progress is on the disk.
    """

    disk: MemoryStore = field(kw_only=True)
    held: bool = True
    opened: Deferred[Cursor] = field(factory=Deferred)
    is_written: bool = False
    is_broken: bool = False

    def open(self, _: Callable[[], object] | None = None) -> Deferred[Cursor]:
        """
        Return a Deferred that fires when the process has the lock; see L{IStore.open}.
        """
        return self.opened

    def give_lock(self) -> None:
        """
        Give the process the lock, and let it read the disk.
        """
        cursor = self.disk.open()
        self.remembered_keys = self.disk.remembered_keys
        cursor.chainDeferred(self.opened)

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Begin a commit; there must be none after a failed commit or after the end.
        """
        assert not self.is_broken, "a commit after one that failed"
        assert not self.closed, "a commit after the end"
        self.is_written = False
        return super().commit(batch)

    def write(self) -> None:
        """
        Put the batch in progress on the disk.
        """
        assert self.under_way is not None
        if not self.is_written:
            self.is_written = True
            self.disk._take(self.under_way)

    def _take(self, batch: Batch) -> None:
        if not self.is_written:
            self.disk._take(batch)

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Return rows of the disk's history.
        """
        return self.disk.history(before, limit)


#: After so many seconds without a message, the supervisor kills a worker.
WATCHDOG_SECONDS = 5.0

#: What a client gets: the response to a step, an error, the revision and the position for a
#: read, or C{None} if the connection broke.
Result = Response | Exception | tuple[int, int] | None


@define(eq=False)
class Request:
    """
    A request on its way to a process, in a process, or on its way back.

    @ivar step: C{None} for a read.
    @ivar deliver: called once, with the result for the client.
    @ivar variant: which of two ways of reading is used.
    """

    number: int
    step: Step | None
    deliver: Callable[[Result], None]
    variant: int = 0


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
    The ways in which a process hangs.

    A stopped process reacts only to SIGKILL; a process that is stuck is ended by SIGABRT
    too.
    """

    STOPPED = auto()
    STUCK = auto()


class Process:
    """
    A worker, as the supervisor and the clients see it.

    @ivar worker: the supervisor's object for it.
    @ivar signals: signals that it has not handled yet.
    @ivar requests: requests that it has accepted, without a result.
    @ivar pending_results: results on their way to the clients.
    @ivar last_message_at: when the supervisor got the last message from it.
    """

    def __init__(self, machine: Machine, worker: SupervisedWorker, pid: int) -> None:
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
        self.pending_results: list[tuple[Request, Result]] = []
        self.last_message_at = machine.seconds()
        self.store = CrashableStore(disk=machine.disk)
        self.committer = Committer(
            self.store, self.clock, on_fatal_failure=self._failed, time_ns=lambda: 0
        )
        self._notifier = Notifier(self._send, WATCHDOG_SECONDS)
        self._state: tuple[str, ...] = ()
        worker.makeConnection(cast(IProcessTransport, self))

    def __str__(self) -> str:
        return f"{self.worker.name} ({self.pid})"

    @property
    def runs(self) -> bool:
        """
        Return whether the process can run in its turn.
        """
        return self.alive and self.hang is None

    def signalProcess(self, which: str | int) -> None:
        """
        Keep a signal until the process handles it; see L{IProcessTransport}.
        """
        if not self.alive:
            raise ProcessExitedAlready
        number = signals.Signals[f"SIG{which}"] if isinstance(which, str) else which
        if number == signals.SIGABRT:
            silence = self.machine.seconds() - self.last_message_at
            assert silence > WATCHDOG_SECONDS, f"{self} was heard {silence} seconds ago"
        self.signals.append(number)

    def step(self) -> None:
        """
        Handle the signals, or continue the start or the end.
        """
        if self.signals:
            self._take_signals()
        elif self.phase is Phase.BOOTING:
            self._boot()
        elif self.phase is Phase.LEAVING:
            self._drain()

    def _take_signals(self) -> None:
        """
        Handle the signals, if the process can.
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

    def _boot(self) -> None:
        """
        Start, until the process waits for the lock.
        """
        self.phase = Phase.STANDBY
        started = Deferred.fromCoroutine(self.committer.start())
        started.addCallback(self._serve).addErrback(self.machine.bugs.append)
        self._notify(STANDBY)
        interval = WATCHDOG_SECONDS / HEARTBEATS_PER_WATCHDOG
        Periodic(self._send_heartbeat, self.clock).start(interval, now=True)

    async def _send_heartbeat(self) -> None:
        await self.committer.wait_for_commit()
        self._notifier.notify(ALIVE, *self._state)

    def _serve(self, _: None) -> None:
        self.phase = Phase.ACTIVE
        self._notify(READY, "STATUS=serving")

    def _notify(self, *state: str) -> None:
        self._state = state
        self._notifier.notify(*state)

    def _send(self, message: bytes) -> None:
        machine = self.machine
        if machine.loss_rate > 0 and machine.rng.random() < machine.loss_rate:
            return
        self.last_message_at = self.machine.seconds()
        self.worker.childDataReceived(MESSAGES_FD, message)

    def turn(self) -> None:
        """
        Run one iteration of the process's reactor.
        """
        self.clock.rightNow = self.machine.seconds()
        self.clock.turn()

    def accept(self, request: Request) -> None:
        """
        Give C{request} to the committer.
        """
        self.requests.append(request)
        committer, step = self.committer, request.step

        def done(result: Result) -> None:
            if request in self.requests:
                self.requests.remove(request)
                self.pending_results.append((request, result))

        def seen(rows: list[HistoryEntry]) -> None:
            done((rows[0].revision, rows[0].position) if rows else (0, 0))

        def shown(response: Response) -> None:
            done((response.state.revision, response.state.position))

        if step is None and request.variant:
            committer.history(committer.durable.revision + 1, 1).addCallback(seen)
        elif step is None:
            committer.read(CallingWaiter(shown, done))
        else:
            committer.step(step, CallingWaiter(done, done))

    def hang_up(self, request: Request) -> None:
        """
        Close the connection of C{request}, as its client would.
        """
        self.requests.remove(request)
        request.deliver(None)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(DiskError):
            self.machine.bugs.append(failure)
        self._leave(Status.STORE_FAILED)

    def _leave(self, status: int = 0) -> None:
        if self.phase in (Phase.BOOTING, Phase.STANDBY):
            self.end(status=0)
        elif self.phase is Phase.ACTIVE:
            self.phase = Phase.LEAVING
            self.status = status
            self._notify(STOPPING)

    def _drain(self) -> None:
        """
        Stop the committer, and end; all connections are drained.
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
            request.deliver(None)
        pending_results, self.pending_results = self.pending_results, []
        for request, result in pending_results:
            request.deliver(result if self.machine.rng.random() < 1 / 2 else None)
        reason = ProcessTerminated(status, signal) if status or signal else ProcessDone(0)
        self.worker.processEnded(Failure(reason))


#: More transitions and keys than a run has.
NO_LIMIT = 1_000_000


@implementer(IReactorTime)
class Machine(Turns):
    """
    The simulated machine, which is also the supervisor's reactor.

    The supervisor has neither sockets nor a first verification.

    @ivar report: the report that the workers read.
    @ivar pool: the workers, which SIGHUP replaces.
    @ivar tick: the number of the present event.
    @ivar trace: a line for everything that happened.
    @ivar disk: survives the processes.
    @ivar owner: the process that has the lock.
    @ivar backlog: requests that no worker has accepted.
    @ivar loss_rate: the share of notifications that are lost.
    @ivar suspicious_ends: how many processes ended in a way that a bad disk can cause.
    @ivar bugs: failures that must not happen.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.tick = 0
        self.trace: list[str] = []
        self.rng = rng
        self.disk = MemoryStore(journal=NO_LIMIT, kept_keys=NO_LIMIT)
        self.owner: Process | None = None
        self.processes: list[Process] = []
        self.backlog: list[Request] = []
        self.loss_rate = 0.0
        self.bugs: list[Failure] = []
        self.spawned = 0
        self.suspicious_ends = 0
        self.report = SupervisorReport(wanted_standby_count=1)
        setup = WorkerSetup(command=["worker"], watchdog=WATCHDOG_SECONDS, standby_count=1)
        self.pool = WorkerPool(
            cast(SupervisorReactor, self),
            Reporter(Notifier(), self.report, lambda _: None),
            setup=setup,
            spawn=self.spawn,
            reread_options=lambda _: setup,
            end_service=lambda status, reason: self.note(f"{status!r}: {reason}"),
        )

    def knows(self, process: Process) -> bool:
        """
        Return whether the supervisor knows the present state of C{process}.
        """
        state = process.worker.state
        return state.name == process.phase.name and process.worker.pid == process.pid

    def spawn(self, worker: SupervisedWorker) -> None:
        """
        Start a process of C{worker}.
        """
        # The process reads this number, and verifies the store if it has grown.
        assert self.report.suspicious_ends == self.suspicious_ends
        self.spawned += 1
        process = Process(self, worker, self.spawned)
        self.note(f"{process} begins")
        self.processes.append(process)
        # Two workers, one that replaces them, and one that did not start and will be
        # killed.
        assert len(self.processes) <= 4, "too many processes"

    def note(self, line: str) -> None:
        """
        Add C{line} to the trace.
        """
        self.trace.append(f"{self.tick:4} {self.seconds():8.3f} {line}")

    def ended(self, process: Process, *, suspicious: bool) -> None:
        """
        Remove a process that has ended.

        The batch that it was writing may or may not be on the disk.
        """
        if process.store.under_way is not None and self.rng.random() < 1 / 2:
            process.store.write()
        self.note(f"{process} ends, the disk is at {self.disk.cursor.revision}")
        self.processes.remove(process)
        self.suspicious_ends += suspicious
        if self.owner is process:
            self.owner = None

    def pass_lock(self) -> None:
        """
        If the lock is free, give it to a process that waits for it.
        """
        if self.owner is not None:
            return
        waiting = [
            process
            for process in self.processes
            if process.runs and process.phase is Phase.STANDBY
        ]
        if waiting:
            self.owner = self.rng.choice(waiting)
            self.note(f"{self.owner} owns the store")
            self.owner.store.give_lock()
