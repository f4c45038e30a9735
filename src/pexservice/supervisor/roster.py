"""
The roster: all workers, and the decisions about them.

One worker serves, and another stands by to take over.  A worker that ends is followed by
another, unless its exit status says that there is no use in that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel

from pexservice.process import scoreboard
from pexservice.process.exit_status import SIGNALS_OF_DAMAGE, Status
from pexservice.process.periodic import Periodic
from pexservice.process.sd_notify import STANDING_BY
from pexservice.supervisor.child import Command, End
from pexservice.supervisor.plan import Plan
from pexservice.supervisor.reports import Reports
from pexservice.supervisor.worker_process import RUNNING, Reactor, State, WorkerProcess

#: How long other workers wait for one that starts, while no worker serves.  Seconds; a
#: start takes half a second.
HEAD_START = 5.0

#: How often, within the watchdog's time, the roster looks for a worker that is silent.
LOOKS = 4

#: Ends after which the next worker has the whole store verified.
_SUSPICIOUS = {-number for number in SIGNALS_OF_DAMAGE} | {Status.STORE_FAILED}

#: The reasons of workers that ended by themselves, by their exit status.
_REASONS: dict[int, str] = {
    Status.STORE_FAILED: scoreboard.STORE_FAILED,
    Status.CANNOT_START: scoreboard.CANNOT_START,
    Status.MISCONFIGURED: scoreboard.MISCONFIGURED,
}


#: The states of a worker that may have the store's lock.
_POSSIBLE_OWNERS = RUNNING - {State.STANDBY, State.NOT_READY}


class Roster:
    """
    The workers of one supervisor.

    @ivar running: whether workers should run.
    @ivar plan: the plan by which workers are started and watched.
    @ivar workers: the records of all workers that have not ended for good, the oldest
        first.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        reports: Reports,
        *,
        plan: Plan,
        launch: Callable[[Plan, bool, bool], Command],
        give_up: Callable[[Status, str], object],
    ) -> None:
        """
        Make a roster without workers, which L{start} adds.

        @param launch: returns the command of a worker; called with the plan, with
            whether the worker has to verify the store, and with whether no worker has
            served yet.
        @param give_up: ends the service, with a status and a reason.
        """
        self._reactor = reactor
        self._reports = reports
        self._launch = launch
        self._give_up = give_up
        self.plan = plan
        self._numbers = itertools.count(1)
        # The first worker reads the whole store, and so does the next one after an end that
        # damage may have caused.
        self._suspicious = True
        self._has_served = False
        self._looked = reactor.seconds()
        self._looking = Periodic(self._look, reactor)
        self._changes: list[Deferred[None]] = []
        self.running = False
        self.workers: list[WorkerProcess] = []

    @property
    def staying(self) -> list[WorkerProcess]:
        """
        Return the workers that were not asked to end.
        """
        return [each for each in self.workers if not each.retired]

    @property
    def _is_serving(self) -> bool:
        return any(worker.state is State.ACTIVE for worker in self.workers)

    @property
    def in_succession(self) -> bool:
        """
        Return whether no worker serves and one is about to.

        That worker stands by, or it has begun and has not yet had the time to serve.
        """
        recently = self._reactor.seconds() - HEAD_START
        return not self._is_serving and any(
            each.state is State.STANDBY
            or (each.state is State.STARTING and each.began > recently)
            for each in self.workers
        )

    # Calls by the service and by a replacement.

    def start(self) -> None:
        """
        Start the workers, and watch over them.
        """
        self.running = True
        self._looked = self._reactor.seconds()
        self._looking.start(self.plan.watchdog / LOOKS)
        self.fill()

    def configure(self, plan: Plan) -> None:
        """
        Start and watch workers by C{plan} from now on.

        Those that run already stay as they are; as many as C{plan} has stand by after the
        next L{fill}.
        """
        self.plan = plan
        self._reports.standby_wanted(plan.standby)
        if self.running:
            self._looking.stop()
            self._looking.start(plan.watchdog / LOOKS)

    def fill(self) -> list[WorkerProcess]:
        """
        Add the workers that are missing, and return them.
        """
        missing = 1 + self.plan.standby - len(self.staying)
        return [self.add() for _ in range(missing)]

    def add(self) -> WorkerProcess:
        """
        Add one more worker, and start it.
        """
        worker = WorkerProcess(
            f"worker-{next(self._numbers)}", self._reactor, self, self.plan.watchdog
        )
        self.workers.append(worker)
        worker.start()
        return worker

    async def stop(self) -> None:
        """
        Have all workers end, and wait until they have.
        """
        self.running = False
        for each in [*self.workers]:
            each.retire()
        while self.workers:
            await self.change()
        self._looking.stop()

    def change(self) -> Deferred[None]:
        """
        Return a C{Deferred} that fires when the state of a worker changes.
        """
        change: Deferred[None] = Deferred()
        self._changes.append(change)
        return change

    def stir(self) -> None:
        """
        Have the code that waits for a L{change} look again.
        """
        changes, self._changes = self._changes, []
        for each in changes:
            each.callback(None)

    # The messages of the workers; see Overseer.

    def command(self) -> Command:
        """
        Return the command that starts a worker now.

        The command depends on how other workers ended.
        """
        return self._launch(self.plan, self._suspicious, not self._has_served)

    def changed(self, worker: WorkerProcess) -> None:
        """
        Report the states of the workers, of which C{worker}'s has changed.
        """
        if worker.state is State.ACTIVE:
            self._has_served = True
            if worker.verifies:
                self._suspicious = False
            # Starting works, so there is no reason to wait longer each time.
            for each in self.workers:
                each.restart_delay.reset()
            self._reports.serving(worker.name, self._reactor.seconds())
            self._reports.ready()
        elif worker.state is State.NOT_READY and not self._is_serving:
            # Clients get a response, which says why no step is taken.
            self._reports.unready(worker.status)
            self._reports.ready()
        elif worker.state is State.ENDED:
            self.workers.remove(worker)
        self._reports.states(
            standing_by=sum(each.state is State.STANDBY for each in self.workers),
            possible_owners=sum(each.state in _POSSIBLE_OWNERS for each in self.workers),
            processes=[
                scoreboard.Process(each.name, each.pid, each.state.label)
                for each in self.workers
                if each.pid is not None
            ],
        )
        self.stir()

    def notified(self, worker: WorkerProcess, line: str) -> None:
        """
        Pass on a worker's sign of life, or its status if that is the service's.
        """
        serving = [each for each in self.workers if each.state is State.ACTIVE]
        if line.startswith("STATUS=") and (
            line == STANDING_BY or (serving and worker not in serving)
        ):
            return
        self._reports.pass_on(line)

    def gone(self, worker: WorkerProcess) -> None:
        """
        Report a worker that has served and serves no more.
        """
        if worker.has_served:
            self._reports.gone(worker.name, self._reactor.seconds())

    def ended(self, worker: WorkerProcess, end: End) -> None:
        """
        Count a worker that ended, and end the service where another would be of no use.
        """
        if end.code in _SUSPICIOUS:
            self._suspicious = True
        if not self.running:
            return
        self._log_end(worker, end)
        self._reports.restarted(
            _reason(worker, end), failover=worker.has_served and not worker.retired
        )
        reason = worker.status or f"{worker.name} ended {end}"
        if not worker.was_up and not self._is_serving:
            self._reports.unready(reason)
        # Once a worker has served, what it could do may become possible again.
        if end.code == Status.DAMAGED or (
            end.code in (Status.MISCONFIGURED, Status.CANNOT_START)
            and not self._has_served
            and not any(
                each.is_up or each.is_verifying
                for each in self.workers
                if each is not worker
            )
        ):
            self._give_up(Status(end.code), reason)

    def _log_end(self, worker: WorkerProcess, end: End) -> None:
        failed = end.code > 0 and not worker.retired
        if failed:
            level = LogLevel.error
        elif end.code < 0 and not worker.retired:
            level = LogLevel.warn
        else:
            level = LogLevel.info
        reason = f": {worker.status}" if failed and worker.status else ""
        self._log.emit(
            level, "{name} ended {how}{reason}", name=worker.name, how=end, reason=reason
        )

    # The watchdog.

    def _look(self) -> None:
        now = self._reactor.seconds()
        late, self._looked = now - self._looked > self.plan.watchdog / 2, now
        for each in [*self.workers]:
            # If the supervisor itself was late, the workers' messages wait to be read.
            each.watch(excused=late)


def _reason(worker: WorkerProcess, end: End) -> str:
    if worker.retired:
        return scoreboard.REPLACED
    if worker.state is State.SILENT:
        return scoreboard.SILENT
    if end.code < 0:
        return scoreboard.KILLED
    return _REASONS.get(end.code, scoreboard.FAILED)
