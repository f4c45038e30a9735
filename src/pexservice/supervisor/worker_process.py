"""
What L{twisted.runner.procmon} leaves out, added around the reactor that it spawns
with.

procmon restarts what ends.  It does not hand descriptors down, does not say how a
process ended, and loses a process's output after a line of 16 KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from attrs import frozen
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import (
    IDelayedCall,
    IProcessTransport,
    IReactorProcess,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger()

#: A line of output is cut here; what follows is another line.  Bytes.
LONGEST_LINE = 8192


class Lines:
    """
    Cuts a stream of bytes into lines, of whatever length, in bounded memory.
    """

    def __init__(self, line: Callable[[str], object]) -> None:
        self._line = line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """
        Some more bytes.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for each in lines:
            self._cut(each)
        while len(self._rest) > LONGEST_LINE:
            self._say(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]

    def end(self) -> None:
        """
        No more bytes.
        """
        if self._rest:
            self._say(self._rest)
            self._rest = b""

    def _cut(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, LONGEST_LINE):
            self._say(line[start : start + LONGEST_LINE])

    def _say(self, line: bytes) -> None:
        self._line(line.decode("utf-8", "backslashreplace"))


class Named(Protocol):
    """
    procmon's protocols, which have the name of their process.
    """

    name: str


@frozen
class Command:
    """
    How a process is started.

    @ivar descriptors: what it gets beyond the first three: its number there, and
        ours.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Mapping[int, int]


class Observer(Protocol):
    """
    Who says how the processes are started, and wants to know of them.
    """

    def command(self, name: str) -> Command:
        """
        How is C{name} started, now?
        """

    def spawned(self, name: str, transport: IProcessTransport) -> None:
        """
        The process C{name} runs.
        """

    def said(self, name: str, line: str) -> None:
        """
        It has written a line, to its standard output or error.
        """

    def ended(self, name: str, reason: Failure) -> None:
        """
        It has ended, and procmon will be told next.
        """


class _Relay(ProcessProtocol):
    """
    Between a process and procmon's protocol for it, which is told when it begins
    and ends and not what it says.
    """

    def __init__(self, inner: ProcessProtocol, observer: Observer) -> None:
        self._inner = inner
        self._observer = observer
        self._name = cast(Named, inner).name
        self._streams = {
            descriptor: Lines(lambda line: observer.said(self._name, line))
            for descriptor in (1, 2)
        }

    def connectionMade(self) -> None:
        """
        It runs.
        """
        self._inner.makeConnection(self.transport)
        if self.transport is not None:
            self._observer.spawned(self._name, self.transport)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """
        It says something.
        """
        self._streams[childFD].feed(data)

    def processEnded(self, reason: Failure) -> None:
        """
        It has ended and said all it had to say.
        """
        try:
            for stream in self._streams.values():
                stream.end()
            self._observer.ended(self._name, reason)
        finally:
            # Whatever goes wrong above, there is another start.
            self._inner.processEnded(reason)


class _NeverRan:
    """
    The transport of a process that could not be spawned.
    """

    def signalProcess(self, signalID: str) -> None:
        """
        See L{IProcessTransport.signalProcess}.
        """
        raise ProcessExitedAlready


@implementer(IReactorProcess, IReactorTime)
class Spawner:
    """
    A reactor for procmon.

    Each process is started by what the observer says then, and not by what procmon
    was told once.
    """

    def __init__(self, reactor: object, observer: Observer) -> None:
        self._process = IReactorProcess(reactor)
        self._time = IReactorTime(reactor)
        self._observer = observer

    def spawnProcess(  # type: ignore[override]
        self, processProtocol: ProcessProtocol, *_: Any, **__: Any
    ) -> Any:
        """
        See L{IReactorProcess.spawnProcess}.
        """
        command = self._observer.command(cast(Named, processProtocol).name)
        relay = _Relay(processProtocol, self._observer)
        try:
            return self._process.spawnProcess(
                relay,
                command.arguments[0],
                command.arguments,
                command.environment,
                # Standard input is a pipe that nobody writes to.
                childFDs={0: "w", 1: "r", 2: "r", **command.descriptors},
            )
        except OSError as error:
            # Twisted 24.11's procmon would never start it again.
            _log.error("cannot start a process: {error}", error=error)
            transport = _NeverRan()
            processProtocol.makeConnection(cast(IProcessTransport, transport))
            ended = Failure(ProcessTerminated(exitCode=1))
            self._time.callLater(0, relay.processEnded, ended)
            return transport

    def seconds(self) -> float:
        """
        See L{IReactorTime.seconds}.
        """
        return self._time.seconds()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 the interface's name
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        """
        See L{IReactorTime.callLater}.
        """
        return self._time.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """
        See L{IReactorTime.getDelayedCalls}.
        """
        return self._time.getDelayedCalls()
