"""
What a worker does until it is active.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pexservice.commit.interface import ICommitter
from pexservice.process.sd_notify import NOT_READY, STANDBY, Notifier
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.process.timing import Periodic
from pexservice.stores.errors import StoreDamaged, StoreError, StoreUnavailable
from pexservice.stores.factory_interface import IStoreFactory
from pexservice.worker.listeners import Listeners

#: The interval at which an inactive worker checks whether another worker is active.
CHECK_INTERVAL_SECONDS = 0.25

#: When no worker has been active for this long, a worker with a problem opens its listeners
#: and responds with 503.  A takeover takes less time, so no client gets a 503 during it.
#: The timeouts of clients are longer, so a client gets the 503 before its timeout.
ALONE_SECONDS = 0.5

#: If no worker has been active for this long, and no worker of this service can have the
#: lock, a worker that waits for the lock reports that another program has it.
FOREIGN_LOCK_SECONDS = 3.0


@define(eq=False)
class InactivePhase:
    """
    The time until a worker is active, in which the worker shows its state.

    The worker may stand by, which means that it waits for the store's lock.  Or it may have
    a I{problem}, for example that it cannot open the store.  It reports either state to the
    supervisor.  If no other worker is active, a worker with a problem also opens its
    listeners.  Then a request that needs the store gets a 503 with the problem.
    """

    _log = Logger()

    _reactor: IReactorTime
    _listeners: Listeners
    _committer: ICommitter
    _factory: IStoreFactory
    _read_report: Callable[[], SupervisorReport | None]
    _notifier: Notifier
    _waits_for_lock: bool = field(init=False, default=False)
    _problem: str | None = field(init=False, default=None)
    # Since when the checks have found no active worker, by the reactor's clock.
    _alone_since: float | None = field(init=False, default=None)
    _checking: Periodic = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._checking = Periodic(self._check, self._reactor)

    def start(self) -> None:
        self._checking.start(CHECK_INTERVAL_SECONDS)

    def stop(self) -> None:
        """
        End the phase: the worker becomes active, or stops.
        """
        self._checking.stop()

    def stand_by(self) -> None:
        """
        Tell the supervisor that this worker waits for the store's lock.

        A standby has no open listeners.  If they are still open because of a problem, the
        worker does not report yet that it stands by.  When another worker is active,
        L{_check} closes the listeners, and then calls this method again.
        """
        self._waits_for_lock, self._alone_since = True, None
        if self._listeners.are_open:
            return
        self._log.info("standby: waiting for the store's lock")
        self._problem = None
        self._notifier.notify_repeatedly(STANDBY)

    def may_retry(self, error: StoreError) -> bool:
        """
        Return whether the worker tries again to open the store after C{error}.

        After L{StoreDamaged}, no: the operator must act.  After L{StoreUnavailable}, yes.
        After any other error, the supervisor decides: C{SupervisorReport.retry_opening}.
        """
        if isinstance(error, StoreDamaged):
            return False
        report = self._read_report()
        supervisor_wants = report is not None and report.retry_opening
        return supervisor_wants or isinstance(error, StoreUnavailable)

    def store_failed_to_open(self, problem: str) -> None:
        self._waits_for_lock = False
        self._show_problem(problem)

    def _show_problem(self, problem: str) -> None:
        if problem != self._problem:
            self._log.error("cannot serve: {problem}; retrying", problem=problem)
        self._problem = problem
        self._committer.refuse_all(problem)
        self._notifier.notify_repeatedly(f"STATUS={problem}", NOT_READY)

    async def _check(self) -> None:
        report, now = self._read_report(), self._reactor.seconds()
        if report is not None and report.active_worker:
            self._alone_since = None
            await self._listeners.close()
            if self._waits_for_lock and self._problem is not None:
                self.stand_by()
            return
        if self._alone_since is None:
            self._alone_since = now
        alone_seconds = now - self._alone_since
        if (
            self._waits_for_lock
            and alone_seconds >= FOREIGN_LOCK_SECONDS
            and report is not None
            and report.possible_lock_holders == 0
        ):
            self._show_problem(
                f"{self._factory.name} is in use by {self._factory.lock_holder()}, which is"
                " no worker of this service"
            )
        if self._problem is not None and alone_seconds >= ALONE_SECONDS:
            self._listeners.open()
