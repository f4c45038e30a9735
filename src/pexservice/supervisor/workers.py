"""
The workers of a supervisor, and the decisions about all of them.

One worker is active, and another stands by to take over.  When a worker ends, the
supervisor starts another one, unless the exit status says that another one would fail too.
A reload replaces all workers without a failed request: the new workers use the installed
code, the options and the files as they are then.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel

from pexservice.process import scoreboard
from pexservice.process.exit_status import SIGNALS_OF_DAMAGE, CannotStart, Status
from pexservice.process.scoreboard import Process
from pexservice.process.sd_notify import STANDBY
from pexservice.process.timing import Periodic
from pexservice.stores.interface import StoreUnusable
from pexservice.supervisor.reports import Reports
from pexservice.supervisor.worker_process import (
    MIN_BACKOFF_SECONDS,
    WITH_PROCESS,
    SpawningReactor,
    WorkerProcess,
    WorkerState,
    describe,
)
from pexservice.supervisor.worker_setup import Inherited, WorkerSetup

#: How long other workers wait for one that starts, while no worker is active.  A start
#: takes half a second.
HEAD_START_SECONDS = 5.0

#: How long a reload waits for a new worker to stand by.
RELOAD_TIMEOUT_SECONDS = 15.0

#: How often the supervisor looks for silent workers within the watchdog's time.
CHECKS_PER_WATCHDOG = 4

#: The exit statuses after which the next worker has the whole store verified.
_SUSPICIOUS = {-number for number in SIGNALS_OF_DAMAGE} | {Status.STORE_FAILED}

#: The reasons for which workers ended by themselves, by their exit status.
_REASON_BY_STATUS: dict[int, str] = {
    Status.STORE_FAILED: scoreboard.STORE_FAILED,
    Status.CANNOT_START: scoreboard.CANNOT_START,
    Status.MISCONFIGURED: scoreboard.MISCONFIGURED,
}

#: The states of a worker that may have the store's lock.
_MAY_HOLD_LOCK = WITH_PROCESS - {WorkerState.STANDBY, WorkerState.NOT_READY}


class Workers:
    """
    The workers of one supervisor.

    @ivar running: whether workers should run.
    @ivar setup: how workers are started and watched; a reload may change it.
    @ivar inherited: what all workers get.
    @ivar must_verify: whether the next worker has to verify the whole store: no worker has
        done so yet, or damage may have ended a worker since.
    @ivar all: the workers that have not ended for good, the oldest first.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: SpawningReactor,
        reports: Reports,
        *,
        setup: WorkerSetup,
        inherited: Inherited,
        reread: Callable[[WorkerSetup], WorkerSetup],
        end_service: Callable[[Status, str], object],
    ) -> None:
        """
        Make no worker yet; L{start} does.

        @param reread: reads the options again, and returns the new setup; called with the
            present one, and raises L{CannotStart} if the new one must not be used.
        @param end_service: ends the service, with a status and a reason.
        """
        self._reactor = reactor
        self._reports = reports
        self._reread = reread
        self._end_service = end_service
        self.setup = setup
        self.inherited = inherited
        self._numbers = itertools.count(1)
        self.must_verify = True
        self._has_served = False
        self._last_check_at = reactor.seconds()
        self._watching = Periodic(self._watch, reactor)
        self._changes: list[Deferred[None]] = []
        self._reload_again = False
        # The worker that a reload in progress waits for before it retires another.
        self._first_replacement: WorkerProcess | None = None
        self.running = False
        self.all: list[WorkerProcess] = []

    @property
    def _active(self) -> list[WorkerProcess]:
        # For a moment there may be two, if the end of the first was not noticed yet.
        return [worker for worker in self.all if worker.state is WorkerState.ACTIVE]

    @property
    def takeover_in_progress(self) -> bool:
        """
        Return whether no worker is active, and a worker is expected to be soon.

        That worker stands by, or it started less than L{HEAD_START_SECONDS} ago.
        """
        recently = self._reactor.seconds() - HEAD_START_SECONDS
        return not self._active and any(
            worker.state is WorkerState.STANDBY
            or (worker.state is WorkerState.STARTING and worker.began > recently)
            for worker in self.all
        )

    @property
    def reloading(self) -> bool:
        return self._reports.reloading

    # Starting and stopping.

    def start(self) -> None:
        self.running = True
        self._use_setup(self.setup)
        self._fill()

    def _use_setup(self, setup: WorkerSetup) -> None:
        """
        Use C{setup} for later starts and for the watchdog.

        Running workers stay as they are; the next L{_fill} adds missing standbys.
        """
        self.setup = setup
        self._reports.score.wanted_standby_count = setup.standby_count
        self._reports.publish()
        self._last_check_at = self._reactor.seconds()
        self._watching.stop()
        self._watching.start(setup.watchdog / CHECKS_PER_WATCHDOG)

    def _fill(self) -> list[WorkerProcess]:
        """
        Add the workers that are missing, and return them.
        """
        staying = [worker for worker in self.all if not worker.retired]
        return [self._add() for _ in range(1 + self.setup.standby_count - len(staying))]

    def _add(self) -> WorkerProcess:
        name = f"worker-{next(self._numbers)}"
        worker = WorkerProcess(name, self._reactor, self, self.setup.watchdog)
        self.all.append(worker)
        worker.start()
        return worker

    async def stop(self) -> None:
        """
        Have all workers end, and wait until they have.
        """
        self.running = False
        for worker in [*self.all]:
            worker.retire()
        while self.all:
            await self._next_change()
        self._watching.stop()

    def _next_change(self) -> Deferred[None]:
        """
        Return a C{Deferred} that fires when the state of a worker changes.
        """
        change: Deferred[None] = Deferred()
        self._changes.append(change)
        return change

    def _wake_waiting(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            change.callback(None)

    def _watch(self) -> None:
        now = self._reactor.seconds()
        late, self._last_check_at = now - self._last_check_at > self.setup.watchdog / 2, now
        for worker in [*self.all]:
            # If the supervisor itself was late, the workers' messages wait to be read.
            worker.watch(excused=late)

    # Called by a WorkerProcess.

    def command(self) -> list[str]:
        quick = () if self.must_verify else ("--quick-check",)
        first = () if self._has_served else self.inherited.first_options
        return [*self.setup.command, *self.inherited.options, *quick, *first]

    def changed(self, worker: WorkerProcess) -> None:
        """
        Publish the new state of C{worker}, and wake the coroutines that wait for it.
        """
        reports = self._reports
        if worker.state is WorkerState.ACTIVE:
            self._has_served = True
            if worker.verifies:
                self.must_verify = False
            # Starting works, so there is no reason to wait longer each time.
            for other in self.all:
                other.backoff_seconds = MIN_BACKOFF_SECONDS
            reports.serving(worker.name, self._reactor.seconds())
        elif worker.state is WorkerState.NOT_READY and not self._active:
            # No worker can serve now, but clients get a response with the reason.  So the
            # start of the service is complete for systemd.
            reports.cannot_serve(worker.status)
            reports.notify_ready()
        elif worker.state is WorkerState.ENDED:
            self.all.remove(worker)
        states = [worker.state for worker in self.all]
        reports.score.standby_count = states.count(WorkerState.STANDBY)
        reports.score.possible_lock_holders = sum(map(_MAY_HOLD_LOCK.__contains__, states))
        reports.score.processes = (
            Process("supervisor", os.getpid(), "running"),
            *(
                Process(worker.name, worker.pid, worker.state.label)
                for worker in self.all
                if worker.pid is not None
            ),
        )
        reports.publish()
        self._wake_waiting()

    def notified(self, worker: WorkerProcess, line: str) -> None:
        """
        Pass on to systemd a heartbeat, or a status that holds for the whole service.

        The status of a standby, or of a worker next to the active one, does not.
        """
        active = self._active
        if line.startswith("STATUS=") and (
            line == STANDBY or (active and worker not in active)
        ):
            return
        self._reports.pass_on(line)

    def stopped_serving(self, worker: WorkerProcess) -> None:
        self._reports.stopped_serving(worker.name, self._reactor.seconds())

    def ended(self, worker: WorkerProcess) -> None:
        """
        Count a process that ended, and end the service if the next one would fail too.

        C{worker.state} is still the last state of that process.
        """
        exit_status = worker.exit_status
        if exit_status in _SUSPICIOUS:
            self.must_verify = True
        if not self.running:
            return
        self._log_end(worker)
        score = self._reports.score
        score.restarts[_restart_reason(worker)] += 1
        score.failovers += worker.has_served and not worker.retired
        self._reports.publish()
        reason = worker.status or f"{worker.name} ended {describe(exit_status)}"
        if not worker.was_up and not self._active:
            self._reports.cannot_serve(reason)
        # A damaged store needs the operator.  A worker that cannot start ends the service
        # only if none has served yet, since later the cause may be temporary, and only if
        # no other worker serves, stands by or verifies the store, since that one may serve.
        if exit_status == Status.DAMAGED or (
            exit_status in (Status.MISCONFIGURED, Status.CANNOT_START)
            and not self._has_served
            and not any(
                other.is_up or other.is_verifying
                for other in self.all
                if other is not worker
            )
        ):
            self._end_service(Status(exit_status), reason)

    def _log_end(self, worker: WorkerProcess) -> None:
        exit_status = worker.exit_status
        level, how = LogLevel.info, describe(exit_status)
        # The worker is the first one of a reload, and its options are wrong: the reload
        # fails and logs the reason, so it is not logged here again.
        fails_reload = (
            exit_status == Status.MISCONFIGURED and worker is self._first_replacement
        )
        if exit_status and not (worker.retired or fails_reload):
            level = LogLevel.warn if exit_status < 0 else LogLevel.error
            how += f": {worker.status}" if exit_status > 0 and worker.status else ""
        self._log.emit(level, "{name} ended {how}", name=worker.name, how=how)

    # Reloading.

    def reload(self) -> None:
        """
        Replace the workers.  If a reload is in progress, do this when it has ended.
        """
        if not self.running:
            return
        if self.reloading:
            self._reload_again = True
            return
        Deferred.fromCoroutine(self._reload()).addErrback(
            lambda failure: self._log.failure(
                "reload failed; the old workers keep running", failure=failure
            )
        )

    async def _reload(self) -> None:
        self._log.info("replacing the workers")
        self._reports.reload_began()
        problem: str | None = None
        try:
            await self._replace_all()
        except (CannotStart, StoreUnusable) as error:
            problem = str(error)
            self._log.error(
                "reload failed: {reason}; the old workers keep running", reason=problem
            )
        except Exception as error:
            # A bug: reload() logs the traceback.
            problem = f"{type(error).__name__}: {error}"
            raise
        finally:
            if self.running:
                self._reports.reload_ended(problem, self.setup)
                if self._reload_again:
                    self._reload_again = False
                    self.reload()

    async def _replace_all(self) -> None:
        """
        Replace all workers, the active one last.

        @raise CannotStart: the new options are refused, or the first new worker does not
            come up.
        """
        before = self.setup
        old = [worker for worker in self.all if not worker.retired]
        active = self._active
        try:
            self._use_setup(self._reread(before))
            if self.setup.note:
                self._log.warn("{note}", note=self.setup.note)
            await self._add_first_replacement()
        except Exception:
            if self.running:
                self._use_setup(before)
            raise
        if not self.running:
            return
        # First retire the old standby, so that the new worker takes over.
        for group in ([worker for worker in old if worker not in active], active):
            for worker in group:
                worker.retire()
            while any(worker in self.all for worker in group):
                await self._next_change()
        for worker in self._fill() if self.running else ():
            await self._comes_up_in_time(worker)
        if self.running:
            self._log.info("the workers are replaced")

    async def _add_first_replacement(self) -> None:
        """
        Add a worker, and wait until it serves or stands by.

        @raise CannotStart: the worker does not come up, and is retired.
        """
        self._first_replacement = worker = self._add()
        try:
            if not await self._comes_up_in_time(worker) and self.running:
                worker.retire()
                raise CannotStart(worker.status or f"{worker.name} does not come up")
        finally:
            self._first_replacement = None

    async def _comes_up_in_time(self, worker: WorkerProcess) -> bool:
        """
        Wait until C{worker} serves or stands by, and return whether it does so in time.
        """
        end = self._reactor.seconds() + RELOAD_TIMEOUT_SECONDS
        # Check once more at the end, even if no state has changed.
        timer = self._reactor.callLater(RELOAD_TIMEOUT_SECONDS, self._wake_waiting)
        try:
            while self.running and self._reactor.seconds() < end:
                if worker.is_up:
                    return True
                # Another start would fail in the same way.
                misconfigured = worker.exit_status == Status.MISCONFIGURED
                if worker.state is WorkerState.NOT_READY or (
                    misconfigured and worker.state not in WITH_PROCESS
                ):
                    return False
                await self._next_change()
        finally:
            if timer.active():
                timer.cancel()
        return False


def _restart_reason(worker: WorkerProcess) -> str:
    if worker.retired:
        return scoreboard.REPLACED
    if worker.state is WorkerState.SILENT:
        return scoreboard.SILENT
    if worker.exit_status < 0:
        return scoreboard.KILLED
    return _REASON_BY_STATUS.get(worker.exit_status, scoreboard.FAILED)
