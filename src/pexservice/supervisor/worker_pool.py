"""
The workers of a supervisor, and the decisions about all of them.

When the process of a worker ends, the next process of this worker is started.  But if the
exit status shows that the next process would fail too, the supervisor ends the service.

L{WorkerState} explains each state of a worker.  One worker should be active, and another
one should be a standby.  Both are I{up}: they accept requests, or they will as soon as they
get the store's lock.

A reload retires all workers, and adds new ones.  When a worker is I{retired}, its process
stops and no other process follows.  The new processes read the code, the options and the
files.  A reload loses no request: each request that has fully arrived gets its response.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger, LogLevel

from pexservice.process.exit_status import CannotStart, Status
from pexservice.process.timing import Periodic
from pexservice.stores.errors import StoreError
from pexservice.supervisor.reporter import Reporter
from pexservice.supervisor.supervised_worker import (
    MIN_BACKOFF_SECONDS,
    SupervisedWorker,
    SupervisorReactor,
    WorkerState,
)
from pexservice.supervisor.worker_setup import WorkerSetup

#: If no worker is active, one worker starts alone.  Others start when this one is active,
#: or after this time.
#: On one processor, a second start at the same time would delay the first response by 50 %.
MAX_HEAD_START_SECONDS = 5.0

#: How long a reload waits until a new worker stands by or is active.
RELOAD_TIMEOUT_SECONDS = 15.0

#: The supervisor looks for silent workers, and for workers that have waited long enough for
#: their start, this many times in C{--watchdog} seconds, and at least at this interval.
CHECKS_PER_WATCHDOG = 4
MAX_CHECK_INTERVAL_SECONDS = 1.0


@define(eq=False)
class WorkerPool:
    """
    The workers of one supervisor.

    @ivar setup: the setup of the next workers; a reload may change the setup.
    @ivar spawn: starts a process of a worker, which gets its output and its end.
    @ivar workers: all workers, the oldest first, except for retired ones that have ended.
    """

    _log = Logger()

    _reactor: SupervisorReactor
    reporter: Reporter
    setup: WorkerSetup
    spawn: Callable[[SupervisedWorker], object]
    # Reads the options again, and returns the new setup.  It is called with the present
    # setup, and raises CannotStart or StoreError if the new setup must not be used.
    _reread_options: Callable[[WorkerSetup], WorkerSetup]
    # Ends the service, with a status and a reason.
    _end_service: Callable[[Status, str], object]
    workers: list[SupervisedWorker] = field(init=False, factory=list)
    # Whether the service has started and is not stopping.
    _should_run: bool = field(init=False, default=False)
    _any_was_active: bool = field(init=False, default=False)
    _numbers: Iterator[int] = field(init=False, factory=lambda: itertools.count(1))
    _checking: Periodic = field(init=False)
    _last_check_at: float = field(init=False, default=0.0)
    # Fires at the next change.  Only one coroutine waits at a time: the reload, or the
    # stop, which cancels the reload first.
    _change: Deferred[None] = field(init=False, factory=lambda: succeed(None))
    _reload_requested: bool = field(init=False, default=False)
    _reload_task: Deferred[None] = field(init=False, factory=lambda: succeed(None))

    def __attrs_post_init__(self) -> None:
        self._checking = Periodic(self._check, self._reactor)

    @property
    def running(self) -> list[SupervisedWorker]:
        return [worker for worker in self.workers if worker.running]

    @property
    def _active(self) -> list[SupervisedWorker]:
        # There may be two for a moment, until the supervisor notices that one has ended.
        return [worker for worker in self.running if worker.state is WorkerState.ACTIVE]

    @property
    def _kept(self) -> list[SupervisedWorker]:
        return [worker for worker in self.workers if not worker.retired]

    # Starting and stopping.

    def start(self) -> None:
        self._should_run = True
        self._use_setup(self.setup)
        self._add_missing_workers()

    def _use_setup(self, setup: WorkerSetup) -> None:
        """
        Use C{setup} for new workers, and its watchdog for the interval of the checks.
        """
        self.setup = setup
        self._last_check_at = self._reactor.seconds()
        self._checking.stop()
        self._checking.start(
            min(setup.watchdog / CHECKS_PER_WATCHDOG, MAX_CHECK_INTERVAL_SECONDS)
        )

    def _add_missing_workers(self) -> list[SupervisedWorker]:
        missing = 1 + self.setup.standby_count - len(self._kept)
        return [self._add_worker(self.setup) for _ in range(missing)]

    def _add_worker(self, setup: WorkerSetup) -> SupervisedWorker:
        name = f"worker-{next(self._numbers)}"
        worker = SupervisedWorker(name, setup, self, self._reactor)
        self.workers.append(worker)
        self.start_due_workers()
        return worker

    def start_due_workers(self) -> None:
        """
        Start the workers that are due, unless another one is about to become active.
        """
        for worker in self.workers:
            if worker.is_due and not self._another_is_about_to_be_active:
                worker.start()

    @property
    def _another_is_about_to_be_active(self) -> bool:
        """
        Return whether the start of a worker would slow down a more important worker.

        While no worker is active, two kinds are more important: a standby, and a worker
        that started less than L{MAX_HEAD_START_SECONDS} ago.  If no worker was active so
        far, and one stops, a start waits too: the end may end the service.
        """
        now = self._reactor.seconds()
        return not self._active and any(
            worker.state is WorkerState.STANDBY
            or (worker.state is WorkerState.STOPPING and not self._any_was_active)
            or (
                worker.state is WorkerState.STARTING
                and now < worker.started_at + MAX_HEAD_START_SECONDS
            )
            for worker in self.running
        )

    async def stop(self) -> None:
        """
        Retire all workers, and wait until their processes have ended.
        """
        self._should_run = False
        self._reload_task.cancel()
        await self._retire(self.workers)
        self._checking.stop()

    async def _retire(self, retired: list[SupervisedWorker]) -> None:
        for worker in retired:
            worker.retire()
        self.after_change()
        await self._wait_until(lambda: not any(worker.running for worker in retired))

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """
        Wait until C{condition} is true.

        The condition is checked now, and after each change of a worker's state.
        """
        while not condition():
            self._change = Deferred()
            await self._change

    def _check(self) -> None:
        now = self._reactor.seconds()
        supervisor_was_late = now - self._last_check_at > self.setup.watchdog / 2
        self._last_check_at = now
        for worker in self.running:
            if supervisor_was_late:
                # While the supervisor itself hung, it read no heartbeats.
                worker.restart_time_limit()
            else:
                worker.kill_if_silent()
        self.start_due_workers()

    def after_change(self) -> None:
        """
        React to a change of a worker.

        Forget retired workers that have ended, publish the states, start the workers that
        are due, and wake the waiting coroutine.
        """
        self.workers = [
            worker for worker in self.workers if worker.running or not worker.retired
        ]
        self.reporter.show_workers(self.running)
        self.start_due_workers()
        if not self._change.called:
            self._change.callback(None)

    # Called by a worker.

    def on_state(self, worker: SupervisedWorker) -> None:
        """
        React to a new state of C{worker}.

        When clients get responses for the first time, systemd is notified.
        """
        if worker.state is WorkerState.ACTIVE:
            self._any_was_active = True
            # The cause of earlier failures is probably gone.
            for other in self.workers:
                other.backoff_seconds = MIN_BACKOFF_SECONDS
            self.reporter.on_active(worker.name, self._reactor.seconds())
        elif worker.state is WorkerState.NOT_READY and not self._active:
            # This worker cannot open the store, but it sends clients a 503 with the reason,
            # so for systemd the service has started.
            self.reporter.show_problem(worker.status_text)
            self.reporter.notify_started()
        self.after_change()

    def on_status_text(self, worker: SupervisedWorker) -> None:
        """
        Send the status text of C{worker} to systemd, unless another worker is active.
        """
        active = self._active
        if not active or worker in active:
            self.reporter.show_status(worker.status_text)

    def on_end(self, worker: SupervisedWorker) -> None:
        """
        Log and count the end, and end the service if no other worker can become active.
        """
        self._log_end(worker)
        if self._should_run:
            self.reporter.count_end(worker)
            reason = worker.status_text or f"{worker.name} ended {_describe_end(worker)}"
            if not worker.was_up and not self._active:
                self.reporter.show_problem(reason)
            if self._must_end_service(worker.exit_status):
                self._end_service(Status(worker.exit_status), reason)
                return
        self.after_change()

    def _must_end_service(self, exit_status: int) -> bool:
        """
        Return whether an end with C{exit_status} must end the service.

        After DAMAGED, it must.  After MISCONFIGURED or CANNOT_START, it must not in two
        cases: another worker is up or verifies the store; or a worker was active earlier,
        so the cause is probably temporary.
        """
        if exit_status in (Status.MISCONFIGURED, Status.CANNOT_START):
            return not self._any_was_active and not any(
                other.is_up or other.is_verifying for other in self.running
            )
        return exit_status == Status.DAMAGED

    def _log_end(self, worker: SupervisedWorker) -> None:
        """
        Log the end, with its reason if it was not expected.

        An end by a signal is a warning, because often an operator has sent the signal.
        """
        exit_status = worker.exit_status
        # If the new options of a reload are wrong, the first new worker ends with
        # MISCONFIGURED, and L{_reload} logs the reason.
        tries_new_setup = worker.setup is not self.setup and not worker.retired
        is_expected = (
            exit_status == 0
            or (exit_status == -signal.SIGTERM and worker.retired)
            or (exit_status == Status.MISCONFIGURED and tries_new_setup)
        )
        if is_expected:
            level, reason = LogLevel.info, ""
        else:
            level = LogLevel.warn if exit_status < 0 else LogLevel.error
            reason = f": {worker.status_text}" if worker.status_text else ""
        self._log.emit(
            level,
            "{name} ended {end}{reason}",
            name=worker.name,
            end=_describe_end(worker),
            reason=reason,
        )

    # Reloading.

    @property
    def is_reloading(self) -> bool:
        return not self._reload_task.called

    def reload(self) -> None:
        """
        Replace the workers.  If a reload is in progress, do this when it has ended.
        """
        if not self._should_run:
            return
        self._reload_requested = True
        if not self.is_reloading:
            self._reload_task = Deferred.fromCoroutine(self._reload_while_requested())
            self._reload_task.addErrback(lambda failure: failure.trap(CancelledError))

    async def _reload_while_requested(self) -> None:
        while self._reload_requested:
            self._reload_requested = False
            await self._reload()

    async def _reload(self) -> None:
        self._log.info("replacing the workers")
        self.reporter.reload_began()
        problem: str | None = None
        try:
            await self._replace_all()
        except CancelledError:
            # The service stops.
            raise
        except (CannotStart, StoreError) as error:
            old_are_up = any(worker.is_up for worker in self._kept)
            rest = "the old workers keep running" if old_are_up else "no worker is up"
            problem = f"{error}; {rest}"
            self._log.error("reload failed: {problem}", problem=problem)
        except Exception as error:  # noqa: BLE001 a bug, which is logged
            problem = f"{type(error).__name__}: {error}"
            # Some of the old workers may have ended, so the text does not mention them.
            self._log.failure("a bug ended the reload")
        self.reporter.reload_ended(problem, self.setup)

    async def _replace_all(self) -> None:
        """
        Replace all workers, the active one last.

        @raise CannotStart: the new options are wrong, or the first new worker is not up in
            time.  The old workers are still there.
        @raise StoreError: the new options name a store that cannot be used.
        """
        setup = self._reread_options(self.setup)
        if setup.note:
            self._log.warn("{note}", note=setup.note)
        old = self._kept
        first = self._add_worker(setup)
        if not await self._wait_until_up(first):
            first.retire()
            self.after_change()
            raise CannotStart(first.status_text or f"{first.name} does not come up")
        self._use_setup(setup)
        active = [worker for worker in old if worker in self._active]
        # If the old standby were not retired first, it would take over instead of a new
        # worker.
        await self._retire([worker for worker in old if worker not in active])
        await self._retire(active)
        for worker in self._add_missing_workers():
            if not await self._wait_until_up(worker):
                self._log.warn(
                    "the workers are replaced, but {name} does not come up",
                    name=worker.name,
                )
                return
        self._log.info("the workers are replaced")

    async def _wait_until_up(self, worker: SupervisedWorker) -> bool:
        """
        Wait until C{worker} is up, is not ready, or ends with MISCONFIGURED.

        If its process ends in any other way, the next one may come up.  So the wait
        continues, for at most L{RELOAD_TIMEOUT_SECONDS} in all.

        @return: whether the worker is active or stands by.
        """

        def is_decided() -> bool:
            return (
                worker.is_up
                or worker.state is WorkerState.NOT_READY
                # The next process of this worker would fail, too.
                or worker.exit_status == Status.MISCONFIGURED
            )

        decided = Deferred.fromCoroutine(self._wait_until(is_decided))
        with suppress(DeferredTimeout):
            await decided.addTimeout(RELOAD_TIMEOUT_SECONDS, self._reactor)
        return worker.is_up


def _describe_end(worker: SupervisedWorker) -> str:
    """
    Return how the process of C{worker} ended, to complete "worker-1 ended ...".
    """
    if worker.exit_status >= 0:
        return f"with status {worker.exit_status}"
    number = -worker.exit_status
    with suppress(ValueError):
        return f"by {signal.Signals(number).name}"
    # Not every signal has a name.
    return f"by signal {number}"
