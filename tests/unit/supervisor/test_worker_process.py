"""
What procmon leaves out.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.runner.procmon import ProcessMonitor
from zope.interface import implementer

from pexservice.supervisor.worker_process import LONGEST_LINE, Command, Lines, Spawner
from tests.support.fakes import Turns


@given(st.lists(st.binary(max_size=30)))
def test_lines(chunks: list[bytes]) -> None:
    """
    However the stream is cut, its lines come out whole, and nothing is lost.
    """
    said: list[str] = []
    lines = Lines(said.append)
    for chunk in chunks:
        lines.feed(chunk)
    lines.end()
    whole = b"".join(chunks).split(b"\n")
    if whole[-1] == b"":
        whole.pop()
    assert said == [line.decode("utf-8", "backslashreplace") for line in whole]


@pytest.mark.parametrize("length", [LONGEST_LINE, LONGEST_LINE + 1, 1_000_000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_long_line(length: int, end: bytes) -> None:
    """
    A line of any length is cut and costs nobody anything.
    """
    said: list[str] = []
    lines = Lines(said.append)
    for _ in range(length // 1000):
        lines.feed(b"x" * 1000)
    lines.feed(b"x" * (length % 1000) + end)
    lines.end()
    assert "".join(said) == "x" * length
    assert max(map(len, said)) <= LONGEST_LINE


@implementer(IReactorProcess, IReactorTime)
class Processes(Turns):
    """
    A reactor that only notes what it is to spawn.
    """

    #: Of all that are spawned.
    PID = 7

    refuses = False

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[tuple[ProcessProtocol, Any, dict[Any, Any]]] = []

    def spawnProcess(  # type: ignore[override]
        self, protocol: ProcessProtocol, *arguments: Any, childFDs: dict[Any, Any]
    ) -> IProcessTransport:
        """
        See L{IReactorProcess}.
        """
        if self.refuses:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.spawned.append((protocol, arguments, childFDs))
        transport: Any = type("Transport", (), {"pid": self.PID})()
        protocol.makeConnection(transport)
        return transport  # type: ignore[no-any-return]


class Notes:
    """
    An observer.
    """

    def __init__(self) -> None:
        self.notes: list[tuple[str, ...]] = []

    def command(self, name: str) -> Command:
        """
        See L{pexservice.supervisor.worker_process.Observer}.
        """
        return Command(["/bin/worker", name], {"A": "b"}, {3: 12})

    def spawned(self, name: str, transport: IProcessTransport) -> None:
        """
        As above.
        """
        self.notes.append((name, "spawned", str(transport.pid)))

    def said(self, name: str, line: str) -> None:
        """
        As above.
        """
        self.notes.append((name, "said", line))

    def ended(self, name: str, reason: Failure) -> None:
        """
        As above.
        """
        self.notes.append((name, "ended", type(reason.value).__name__))


def monitor(processes: Processes, notes: Notes) -> ProcessMonitor:
    """
    procmon, with what we add.
    """
    monitor = ProcessMonitor(Spawner(processes, notes))
    monitor.addProcess("one", ["ignored"])
    monitor.startService()
    return monitor


def test_a_process() -> None:
    """
    It is started as the observer says, its output is heard, also the last words
    without a newline, and procmon starts it again.
    """
    processes, notes = Processes(), Notes()
    monitor(processes, notes)
    protocol, arguments, descriptors = processes.spawned[0]
    assert arguments == ("/bin/worker", ["/bin/worker", "one"], {"A": "b"})
    assert descriptors == {0: "w", 1: "r", 2: "r", 3: 12}
    protocol.childDataReceived(1, b"out\nlast")
    protocol.childDataReceived(2, b"err\n")
    processes.turn(2.0)
    protocol.processEnded(Failure(ProcessDone(0)))
    assert notes.notes == [
        ("one", "spawned", "7"),
        ("one", "said", "out"),
        ("one", "said", "err"),
        ("one", "said", "last"),
        ("one", "ended", "ProcessDone"),
    ]
    processes.turn()
    assert len(processes.spawned) == 2


def test_a_process_that_cannot_be_spawned() -> None:
    """
    It is tried again.
    """
    processes, notes = Processes(), Notes()
    processes.refuses = True
    monitor(processes, notes)
    processes.turn()
    assert notes.notes == [("one", "ended", ProcessTerminated.__name__)]
    processes.refuses = False
    processes.turn(10.0)
    assert len(processes.spawned) == 1
