"""
The replacement of all workers, at SIGHUP, without a failed request.

The new workers follow the installed code and the files as they are now.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pexservice.process.exit_status import CannotStart, Status
from pexservice.stores.interface import StoreUnusable
from pexservice.supervisor.plan import Plan
from pexservice.supervisor.reports import Reports
from pexservice.supervisor.roster import Roster
from pexservice.supervisor.worker_process import RUNNING, State, WorkerProcess

#: How long a new worker may take until it stands by.  Seconds.
PATIENCE = 15.0

_STOPPING = "the service stops"


class Replacement:
    """
    The replacement of the workers, one by one, however often it is requested.

    @ivar under_way: whether the workers are being replaced.
    """

    _log = Logger()

    def __init__(
        self,
        roster: Roster,
        reports: Reports,
        clock: IReactorTime,
        reread: Callable[[Plan], Plan],
    ) -> None:
        """
        Make a replacement of C{roster}'s workers, which L{request} begins.

        @param reread: reads the options again, and returns the plan by them; called with
            the present plan, and raises L{CannotStart} if it must not follow that.
        """
        self._roster = roster
        self._reread = reread
        self._note = ""
        self._reports = reports
        self._clock = clock
        self.under_way = False
        self._again = False

    def request(self) -> None:
        """
        Replace the workers now, or once more after the replacement under way.
        """
        if self.under_way:
            self._again = True
            return
        self.under_way = True
        Deferred.fromCoroutine(self._replace()).addErrback(
            lambda failure: self._log.failure(
                "reload failed; the old workers keep running", failure=failure
            )
        )

    async def _replace(self) -> None:
        self._log.info("replacing the workers")
        self._reports.reload_began()
        problem: str | None = "it was interrupted"
        try:
            problem = await self._replace_all()
        finally:
            self.under_way = False
            if self._roster.running:
                pending = self._roster.plan.restart_pending
                self._reports.reload_ended(problem, self._note, pending)
                if self._again:
                    self._again = False
                    self.request()

    async def _replace_all(self) -> str | None:
        """
        Replace all workers, and the one that serves last.

        @return: why they were not replaced, or C{None}.
        """
        roster = self._roster
        self._note = ""
        try:
            plan = self._reread(roster.plan)
        except (CannotStart, StoreUnusable) as error:
            self._log.error(
                "reload failed: {reason}; the old workers keep running", reason=error
            )
            return str(error)
        before = roster.plan
        roster.configure(plan)
        self._note = plan.note
        if self._note:
            self._log.warn("{note}", note=self._note)
        old = roster.staying
        serving = [each for each in old if each.state is State.ACTIVE]
        new = roster.add()
        if not await self._is_up(new):
            if not roster.running:
                return _STOPPING
            self._log.error(
                "reload failed: {name} does not come up; the old workers keep running",
                name=new.name,
            )
            new.retire()
            roster.configure(before)
            return new.status or f"{new.name} does not come up"
        # First retire the old standby, so that the new worker takes over.
        for group in ([each for each in old if each not in serving], serving):
            for each in group:
                each.retire()
            while any(each in roster.workers for each in group):
                await roster.change()
        for each in roster.fill() if roster.running else ():
            await self._is_up(each)
        if not roster.running:
            return _STOPPING
        self._log.info("the workers are replaced")
        return None

    async def _is_up(self, worker: WorkerProcess) -> bool:
        """
        Wait until C{worker} serves or stands by.

        @return: whether C{worker} does so in time.
        """
        roster, end = self._roster, self._clock.seconds() + PATIENCE
        # Whatever happens meanwhile, look again at the end.
        timer = self._clock.callLater(PATIENCE, roster.stir)
        try:
            while roster.running and self._clock.seconds() < end:
                if worker.is_up:
                    return True
                if _is_misconfigured(worker) or worker.state is State.NOT_READY:
                    return False
                await roster.change()
        finally:
            if timer.active():
                timer.cancel()
        return False


def _is_misconfigured(worker: WorkerProcess) -> bool:
    """
    Return whether C{worker} has ended in a way that another start would not mend.
    """
    return (
        worker.state not in RUNNING
        and worker.last_end is not None
        and worker.last_end.code == Status.MISCONFIGURED
    )
