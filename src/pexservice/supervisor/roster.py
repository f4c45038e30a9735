"""
What the supervisor knows of the workers that run: who serves, who stands by, who has
not been heard of for too long.

No process is started or ended here, and the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from twisted.logger import Logger

from pexservice.process.sd_notify import ALIVE, READY, STANDING_BY, STOPPING

#: How long a worker may take to say its first word.  Seconds; a large store is read
#: in that time.
START_PATIENCE = 60.0

#: How long others wait for one that begins, while nobody serves.  Seconds; a start
#: takes half a one.
HEAD_START = 5.0


@define
class Member:
    """
    One worker that runs.

    @ivar began: when its process did.
    @ivar heard: when it spoke last, or began.
    @ivar spoke: it has said its first word.
    @ivar condemned: it was silent for too long.
    @ivar served: it serves, or has and is stopping.
    @ivar status: what it does, in its own words.
    """

    name: str
    process: IProcessTransport
    began: float
    heard: float
    spoke: bool = False
    condemned: bool = False
    standing_by: bool = False
    serves: bool = False
    served: bool = False
    status: str = ""


class Crew:
    """
    All of them.
    """

    _log = Logger()

    def __init__(self, seconds: Callable[[], float], watchdog: float) -> None:
        """
        @param watchdog: seconds of silence that are too long.
        """
        self._seconds = seconds
        self._watchdog = watchdog
        self._members: dict[str, Member] = {}
        self._looked = seconds()
        self._changes: list[Deferred[None]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __bool__(self) -> bool:
        return bool(self._members)

    @property
    def pids(self) -> set[int]:
        """
        Their process ids.
        """
        return {each.process.pid for each in self._members.values()}

    def serves(self, name: str) -> bool:
        """
        Is C{name} the one that serves?
        """
        return name in self._members and self._members[name].serves

    def is_up(self, name: str) -> bool:
        """
        Does C{name} serve or stand by?
        """
        return self.serves(name) or (
            name in self._members and self._members[name].standing_by
        )

    def served(self, name: str) -> bool:
        """
        Does C{name} serve, or has it served?
        """
        return name in self._members and self._members[name].served

    def is_condemned(self, name: str) -> bool:
        """
        Was C{name} silent for too long?
        """
        return name in self._members and self._members[name].condemned

    @property
    def standing_by(self) -> int:
        """
        How many stand by.
        """
        return sum(each.standing_by for each in self._members.values())

    @property
    def in_succession(self) -> bool:
        """
        Nobody serves, and somebody is about to: who stands by, or who has begun and
        not yet had the time.
        """
        members, recently = self._members.values(), self._seconds() - HEAD_START
        return not any(each.serves for each in members) and any(
            each.standing_by or (each.began > recently and not each.served)
            for each in members
        )

    def joined(self, name: str, process: IProcessTransport) -> None:
        """
        A worker runs.
        """
        now = self._seconds()
        self._members[name] = Member(name, process, began=now, heard=now)
        self._log.info("{name} is process {pid}", name=name, pid=process.pid)

    def left(self, name: str) -> str:
        """
        It has ended.

        @return: its status.
        """
        member = self._members.pop(name, None)
        self.stir()
        return "" if member is None else member.status

    def hear(self, pid: int, lines: Sequence[str]) -> list[str]:
        """
        A process says something; maybe a worker.

        What it says of its state comes again with each beat, for a datagram may be
        lost.

        @return: of its lines, those to be passed on to whoever started us.
        """
        member = next((m for m in self._members.values() if m.process.pid == pid), None)
        if member is None:
            return []
        member.heard, member.spoke = self._seconds(), True
        passed_on = []
        for line in lines:
            if line == READY and not member.serves:
                member.serves, member.served, member.standing_by = True, True, False
                self._log.info("{name} serves", name=member.name)
                self.stir()
                passed_on.append(line)
            elif line == STANDING_BY and not member.standing_by:
                member.standing_by = True
                self._log.info("{name} stands by", name=member.name)
                self.stir()
            elif line == STOPPING:
                member.serves = False
            elif line.startswith("STATUS="):
                member.status = line.removeprefix("STATUS=")
            if line == ALIVE or (member.serves and line.startswith("STATUS=")):
                passed_on.append(line)
        return passed_on

    def condemn(self) -> list[IProcessTransport]:
        """
        @return: the processes that have been silent for too long, each once.
        """
        now, condemned = self._seconds(), []
        late, self._looked = now - self._looked > self._watchdog / 2, now
        if late:
            # It is we who did not listen; what they said in that time is lost.
            for member in self._members.values():
                member.heard = now
        for member in self._members.values():
            patience = self._watchdog if member.spoke else START_PATIENCE
            silence = now - member.heard
            if silence > patience and not member.condemned:
                member.condemned = True
                condemned.append(member.process)
                self._log.error(
                    "{name} has been silent for {silence:.1f} seconds and is replaced",
                    name=member.name,
                    silence=silence,
                )
        return condemned

    def change(self) -> Deferred[None]:
        """
        @return: fires when a worker begins to stand by or to serve, or ends.
        """
        change: Deferred[None] = Deferred()
        self._changes.append(change)
        return change

    def stir(self) -> None:
        """
        Have who waits for a change look again.
        """
        changes, self._changes = self._changes, []
        for each in changes:
            each.callback(None)
