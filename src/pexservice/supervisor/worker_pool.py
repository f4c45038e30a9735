"""
The workers of a supervisor, and the decisions about all of them.

Each worker is a process in a I{slot} with a name, such as C{worker-1}.  When the process
ends, its slot starts the next process.  But if the exit status shows that the next process
would fail too, the supervisor ends the service.

L{WorkerState} explains each state of a process.  One process should be active, and another
one should be a standby.  Both are I{up}: they accept requests, or they will as soon as they
get the store's lock.

A reload retires all slots, and adds new ones.  When a slot is I{retired}, its process stops
and no other process follows.  The new processes read the code, the options and the files.
A reload loses no request: each request that has fully arrived gets its response.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel

from pexservice.process.exit_status import CannotStart, Status
from pexservice.process.timing import Periodic
from pexservice.stores.errors import StoreError
from pexservice.supervisor.reporter import Reporter
from pexservice.supervisor.worker_setup import WorkerSetup
from pexservice.supervisor.worker_slot import (
    MIN_BACKOFF_SECONDS,
    SupervisorReactor,
    WorkerProcess,
    WorkerSlot,
    WorkerState,
)

#: If no process is active, one process starts alone.  Others start when this one is active,
#: or after this time.
#: On one processor, a second start at the same time would delay the first response by 50 %.
MAX_HEAD_START_SECONDS = 5.0

#: The interval at which the supervisor checks whether a slot has waited for long enough.
START_CHECK_SECONDS = 1.0

#: How long a reload waits until a new process stands by or is active.
RELOAD_TIMEOUT_SECONDS = 15.0

#: The supervisor looks for silent workers this many times in each C{--watchdog} seconds.
SILENCE_CHECKS_PER_WATCHDOG = 4


class WorkerPool:
    """
    The workers of one supervisor.

    @ivar setup: the setup of the next slots; a reload may change the setup.
    @ivar spawn: starts a process with a setup.  The C{ProcessProtocol} gets the output and
        the end of this process.
    @ivar slots: the slots that have not ended, the oldest first.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: SupervisorReactor,
        reporter: Reporter,
        *,
        setup: WorkerSetup,
        spawn: Callable[[ProcessProtocol, WorkerSetup], object],
        reread_options: Callable[[WorkerSetup], WorkerSetup],
        end_service: Callable[[Status, str], object],
    ) -> None:
        """
        Make the object, without starting any worker.

        @param reread_options: reads the options again, and returns the new setup.  It is
            called with the present setup, and raises L{CannotStart} or L{StoreError} if the
            new setup must not be used.
        @param end_service: ends the service, with a status and a reason.
        """
        self._reactor = reactor
        self.spawn = spawn
        self._reread_options = reread_options
        self._end_service = end_service
        self.setup = setup
        self.reporter = reporter
        self._numbers = itertools.count(1)
        self._any_was_active = False
        self._last_check_at = reactor.seconds()
        self._silence_check = Periodic(self._check_for_silence, reactor)
        self._start_check = Periodic(self.start_due_slots, reactor)
        self._waiting_for_change: list[Deferred[None]] = []
        self._reload_requested = False
        self._reload_task: Deferred[None] = succeed(None)
        # Whether the service has started and is not stopping.
        self._should_run = False
        self.slots: list[WorkerSlot] = []

    @property
    def processes(self) -> list[WorkerProcess]:
        """
        Return the processes that run, those of the oldest slots first.
        """
        return [process for slot in self.slots if (process := slot.running_process)]

    @property
    def _active_processes(self) -> list[WorkerProcess]:
        # There may be two for a moment, until the supervisor notices that one has ended.
        return [
            process for process in self.processes if process.state is WorkerState.ACTIVE
        ]

    @property
    def _kept_slots(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if not slot.retired]

    # Starting and stopping.

    def start(self) -> None:
        self._should_run = True
        self._start_check.start(START_CHECK_SECONDS)
        self._use_setup(self.setup)
        self._add_missing_slots()

    def _use_setup(self, setup: WorkerSetup) -> None:
        """
        Use C{setup} for new slots, and its watchdog for the interval of the checks.
        """
        self.setup = setup
        self._last_check_at = self._reactor.seconds()
        self._silence_check.stop()
        self._silence_check.start(setup.watchdog / SILENCE_CHECKS_PER_WATCHDOG)

    def _add_missing_slots(self) -> list[WorkerSlot]:
        missing = 1 + self.setup.standby_count - len(self._kept_slots)
        return [self._add_slot(self.setup) for _ in range(missing)]

    def _add_slot(self, setup: WorkerSetup) -> WorkerSlot:
        name = f"worker-{next(self._numbers)}"
        slot = WorkerSlot(name, setup, self, self._reactor)
        self.slots.append(slot)
        self.start_due_slots()
        return slot

    def start_due_slots(self) -> None:
        """
        Start the slots that are due, unless another process is about to become active.
        """
        for slot in self.slots:
            if slot.is_due and not self._another_is_about_to_be_active:
                slot.start()

    @property
    def _another_is_about_to_be_active(self) -> bool:
        """
        Return whether the start of a process would slow down a more important process.

        While no process is active, two kinds are more important: a standby, and a process
        that started less than L{MAX_HEAD_START_SECONDS} ago.  If no process was active so
        far, and one stops, a start waits too: the end may end the service.
        """
        now = self._reactor.seconds()
        return not self._active_processes and any(
            process.state is WorkerState.STANDBY
            or (process.state is WorkerState.STOPPING and not self._any_was_active)
            or (
                process.state is WorkerState.STARTING
                and now < process.started_at + MAX_HEAD_START_SECONDS
            )
            for process in self.processes
        )

    async def stop(self) -> None:
        """
        Retire all slots, and wait until their processes have ended.
        """
        self._should_run = False
        self._reload_task.cancel()
        await self._retire(self.slots)
        self._silence_check.stop()
        self._start_check.stop()

    async def _retire(self, retired: list[WorkerSlot]) -> None:
        for slot in retired:
            slot.retire()
        self.after_change()
        await self._wait_until(lambda: all(slot.has_ended for slot in retired))

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """
        Wait until C{condition} is true.

        The condition is checked now, and after each change of a process's state.
        """
        while not condition():
            change: Deferred[None] = Deferred()
            self._waiting_for_change.append(change)
            await change

    def _check_for_silence(self) -> None:
        now = self._reactor.seconds()
        supervisor_was_late = now - self._last_check_at > self.setup.watchdog / 2
        self._last_check_at = now
        for process in self.processes:
            if supervisor_was_late:
                # While the supervisor itself hung, it read no heartbeats.
                process.restart_time_limit()
            else:
                process.kill_if_silent()

    def after_change(self) -> None:
        """
        React to a change of a process or a slot.

        Forget slots that have ended, publish the states, start the slots that are due, and
        wake the waiting coroutines.
        """
        self.slots = [slot for slot in self.slots if not slot.has_ended]
        self.reporter.show_processes(self.processes)
        self.start_due_slots()
        waiting, self._waiting_for_change = self._waiting_for_change, []
        for deferred in waiting:
            # Twisted ignores this call if the C{Deferred} was cancelled.
            deferred.callback(None)

    # Called by a process.

    def on_state(self, process: WorkerProcess) -> None:
        """
        React to a new state of C{process}.

        When clients get responses for the first time, systemd is notified.
        """
        if process.state is WorkerState.ACTIVE:
            self._any_was_active = True
            # The cause of earlier failures is probably gone.
            for slot in self.slots:
                slot.backoff_seconds = MIN_BACKOFF_SECONDS
            self.reporter.on_active(process.name, self._reactor.seconds())
        elif process.state is WorkerState.NOT_READY and not self._active_processes:
            # This worker cannot open the store, but it sends clients a 503 with the reason,
            # so for systemd the service has started.
            self.reporter.show_problem(process.status_text)
            self.reporter.notify_started()
        self.after_change()

    def on_status_text(self, process: WorkerProcess) -> None:
        """
        Send the status text of C{process} to systemd, unless another process is active.
        """
        active = self._active_processes
        if not active or process in active:
            self.reporter.forward(f"STATUS={process.status_text}")

    def on_end(self, process: WorkerProcess) -> None:
        """
        Log and count the end, and end the service if no other process can become active.
        """
        # This comes first, so that it happens even if a bug ends this method.
        process.slot.restart_later()
        self._log_end(process)
        if self._should_run:
            self.reporter.count_end(process)
            reason = process.status_text or f"{process.name} ended {_describe_end(process)}"
            if not process.was_up and not self._active_processes:
                self.reporter.show_problem(reason)
            if self._must_end_service(process.exit_status):
                self._end_service(Status(process.exit_status), reason)
                return
        self.after_change()

    def _must_end_service(self, exit_status: int) -> bool:
        """
        Return whether an end with C{exit_status} must end the service.

        After DAMAGED, it must.  After MISCONFIGURED or CANNOT_START, it must not in two
        cases: another process is up or verifies the store; or a process was active earlier,
        so the cause is probably temporary.
        """
        if exit_status in (Status.MISCONFIGURED, Status.CANNOT_START):
            return not self._any_was_active and not any(
                other.is_up or other.is_verifying for other in self.processes
            )
        return exit_status == Status.DAMAGED

    def _log_end(self, process: WorkerProcess) -> None:
        """
        Log the end, with its reason if it was not expected.

        An end by a signal is a warning, because often an operator has sent the signal.
        """
        exit_status = process.exit_status
        # If the new options of a reload are wrong, the first new process ends with
        # MISCONFIGURED, and L{_reload} logs the reason.
        slot = process.slot
        tries_new_setup = slot.setup is not self.setup and not slot.retired
        is_expected = (
            exit_status == 0
            or (exit_status == -signal.SIGTERM and slot.retired)
            or (exit_status == Status.MISCONFIGURED and tries_new_setup)
        )
        if is_expected:
            level, reason = LogLevel.info, ""
        else:
            level = LogLevel.warn if exit_status < 0 else LogLevel.error
            reason = f": {process.status_text}" if process.status_text else ""
        self._log.emit(
            level,
            "{name} ended {end}{reason}",
            name=process.name,
            end=_describe_end(process),
            reason=reason,
        )

    # Reloading.

    @property
    def is_reloading(self) -> bool:
        return not self._reload_task.called

    def reload(self) -> None:
        """
        Replace the slots.  If a reload is in progress, do this when that reload has ended.
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
            problem = f"{error}; the old workers keep running"
            self._log.error("reload failed: {problem}", problem=problem)
        except Exception as error:  # noqa: BLE001 a bug, which is logged
            problem = f"{type(error).__name__}: {error}"
            # Some of the old workers may have ended, so the text does not mention them.
            self._log.failure("a bug ended the reload")
        self.reporter.reload_ended(problem, self.setup)

    async def _replace_all(self) -> None:
        """
        Replace all slots, the active one last.

        @raise CannotStart: the new options are wrong, or the first new process is not up in
            time.  The old processes are still there.
        @raise StoreError: the new options name a store that cannot be used.
        """
        setup = self._reread_options(self.setup)
        if setup.note:
            self._log.warn("{note}", note=setup.note)
        old = self._kept_slots
        first = self._add_slot(setup)
        if not await self._wait_until_up(first):
            first.retire()
            self.after_change()
            reason = first.process.status_text if first.process else ""
            raise CannotStart(reason or f"{first.name} does not come up")
        self._use_setup(setup)
        active = [slot for slot in old if slot.running_process in self._active_processes]
        # If the old standby were not retired first, it would take over instead of a new
        # process.
        await self._retire([slot for slot in old if slot not in active])
        await self._retire(active)
        for slot in self._add_missing_slots():
            if not await self._wait_until_up(slot):
                self._log.warn(
                    "the workers are replaced, but {name} does not come up",
                    name=slot.name,
                )
                return
        self._log.info("the workers are replaced")

    async def _wait_until_up(self, slot: WorkerSlot) -> bool:
        """
        Wait until a process of C{slot} is up, is not ready, or ends with MISCONFIGURED.

        If the process ends in any other way, the next one may come up.  So the wait
        continues, for at most L{RELOAD_TIMEOUT_SECONDS} in all.

        @return: whether the process is active or stands by.
        """

        def is_decided() -> bool:
            process = slot.process
            return process is not None and (
                process.is_up
                or process.state is WorkerState.NOT_READY
                # The next process of this slot would fail, too.
                or process.exit_status == Status.MISCONFIGURED
            )

        decided = Deferred.fromCoroutine(self._wait_until(is_decided))
        with suppress(DeferredTimeout):
            await decided.addTimeout(RELOAD_TIMEOUT_SECONDS, self._reactor)
        return slot.process is not None and slot.process.is_up


def _describe_end(process: WorkerProcess) -> str:
    """
    Return how C{process} ended, to complete the sentence "worker-1 ended ...".
    """
    if process.exit_status >= 0:
        return f"with status {process.exit_status}"
    number = -process.exit_status
    with suppress(ValueError):
        return f"by {signal.Signals(number).name}"
    # Not every signal has a name.
    return f"by signal {number}"
