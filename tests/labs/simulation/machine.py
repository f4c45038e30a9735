"""
The machine that the processes run on, and its supervisor.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.interfaces import (
    IProcessTransport,
    IReactorProcess,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.runner.procmon import ProcessMonitor
from zope.interface import implementer

from pexservice.process.exit_status import Leaving
from pexservice.process.sd_notify import Listener
from pexservice.settings.options import Settings, Supervision
from pexservice.supervisor.service import Supervisor
from tests.labs.simulation.process import WATCHDOG, Phase, Process, Request
from tests.support.fakes import MemoryStore, Turns

#: More than a simulation makes.
MANY = 1_000_000


class _Supervisor(Supervisor):
    """
    Without sockets and pipes.
    """

    def startService(self) -> None:
        """
        See L{Supervisor.startService}.
        """
        self._listener = cast(Listener, SimpleNamespace(name="@nowhere"))
        for _ in range(1 + self._supervision.standby):
            self._add()
        ProcessMonitor.startService(self)
        self._watch.start(self._supervision.watchdog / 4, now=False)

    def knows(self, process: Process) -> bool:
        """
        Does the supervisor know what C{process} does?
        """
        serves = process.phase is Phase.SERVING
        return self._crew.is_up(process.name) and self._crew.serves(process.name) == serves

    @property
    def replaces(self) -> bool:
        """
        Is it about to replace the workers?
        """
        return self._rolling


@implementer(IReactorProcess, IReactorTime)
class Machine(Turns):
    """
    All that there is, and the supervisor's reactor.

    @ivar tick: how many events there were.
    @ivar trace: what happened.
    @ivar disk: what outlives the processes.
    @ivar owner: who has the lock.
    @ivar backlog: requests that nobody has accepted.
    @ivar lossy: the share of the notifications that are lost.
    @ivar bugs: what should not have been raised.
    """

    def __init__(self, choose: random.Random) -> None:
        super().__init__()
        self.tick = 0
        self.trace: list[str] = []
        self.choose = choose
        self.disk = MemoryStore(journal=MANY, kept_keys=MANY)
        self.owner: Process | None = None
        self.processes: list[Process] = []
        self.backlog: list[Request] = []
        self.lossy = 0.0
        self.bugs: list[Failure] = []
        self.spawned = 0
        self.suspicious = False
        leaving = SimpleNamespace(leaving=False)
        self.supervisor = _Supervisor(
            Settings(listen=()),
            Supervision(watchdog=WATCHDOG),
            self,
            cast(Leaving, leaving),
        )

    def spawnProcess(  # type: ignore[override]
        self, protocol: ProcessProtocol, _: str, arguments: list[str], *__: Any, **___: Any
    ) -> IProcessTransport:
        """
        See L{IReactorProcess}.
        """
        quick = "--quick-check" in arguments
        assert quick != self.suspicious, "the store is to be looked at after such an end"
        self.spawned += 1
        name = cast(Any, protocol)._name
        process = Process(self, name, protocol, self.spawned)
        self.note(f"{process} begins")
        self.processes.append(process)
        # Two, one that replaces them, and one that did not come up and is killed soon.
        assert len(self.processes) <= 4, "too many processes"
        return cast(IProcessTransport, process)

    def drops(self) -> bool:
        """
        Is this notification lost?
        """
        return self.lossy > 0 and self.choose.random() < self.lossy

    def heard(self, pid: int, lines: list[str]) -> None:
        """
        A process notifies the supervisor.
        """
        self.supervisor._heard(pid, lines)

    def note(self, what: str) -> None:
        """
        Put C{what} into the trace.
        """
        self.trace.append(f"{self.tick:4} {self.seconds():8.3f} {what}")

    def ended(self, process: Process, *, suspicious: bool) -> None:
        """
        A process is no more; what it was writing is on the disk, or it is not.
        """
        if process.store.under_way is not None and self.choose.random() < 1 / 2:
            process.store.write()
        self.note(f"{process} ends, the disk is at {self.disk.revision}")
        self.processes.remove(process)
        self.suspicious |= suspicious
        if self.owner is process:
            self.owner = None

    def pass_lock(self) -> None:
        """
        If nobody has it, somebody who waits gets it.
        """
        if self.owner is not None:
            return
        waiting = [
            each for each in self.processes if each.runs and each.phase is Phase.STANDING_BY
        ]
        if waiting:
            self.owner = self.choose.choice(waiting)
            self.note(f"{self.owner} owns the store")
            self.owner.store.give_lock()
