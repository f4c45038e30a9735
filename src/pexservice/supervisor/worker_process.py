"""
One worker: a place that one process after the other fills.

Here their output and messages are read, and each is started, told to stop and killed.

A process writes systemd's notify messages into a pipe that only it has, so no other can
speak for it.  The pipe is also its lifeline: a process whose supervisor is gone sees that
nobody reads the pipe any more.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from enum import Enum
from typing import Protocol

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

from pexservice.process.log_lines import level_of
from pexservice.process.sd_notify import ALIVE, NOT_READY, READY, STANDING_BY, STOPPING
from pexservice.supervisor.child import Command, End, RestartDelay
from pexservice.supervisor.lines import Lines

#: The descriptor that a worker writes its messages to.
MESSAGES = 3

#: How long a worker may take to its first message, unless it asks for more.  Seconds.
START_PATIENCE = 60.0

#: How often a start asks again whether another worker is about to serve.  Seconds.
STEP_ASIDE = 0.05

#: How long a worker that is silent has to write its traceback.  Seconds.
LAST_WORDS = 1.0

#: How long a worker that was asked to stop may take; it takes less than 4.  Seconds.
KILL_TIME = 7.0

_EXTEND = "EXTEND_TIMEOUT_USEC"


class Reactor(IReactorProcess, IReactorTime):
    """
    The parts of a reactor that a worker's record needs.
    """


class State(Enum):
    """
    The state of a worker.
    """

    #: There is no process; one is about to be started.
    WAITING = "waits to be started"
    STARTING = "starts"
    STANDBY = "stands by"
    ACTIVE = "serves"
    #: The process has a reason not to serve, and not to stand by; it tries again.
    NOT_READY = "is not ready"
    STOPPING = "stops"
    #: The process was not heard of for too long, and is being killed.
    SILENT = "is silent"
    #: There is no process, and none will be started.
    ENDED = "has ended"

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


#: States of a worker that has a process.
RUNNING = frozenset(State) - {State.WAITING, State.ENDED}


_BEFORE_SERVING = (State.STARTING, State.STANDBY, State.NOT_READY)


class Overseer(Protocol):
    """
    The overseer that decides about all workers, as far as one worker needs it.
    """

    @property
    def in_succession(self) -> bool:
        """
        Return whether another worker is about to serve, so that a start had better wait.
        """

    def command(self) -> Command:
        """
        Return the command that starts a worker now.
        """

    def changed(self, worker: WorkerProcess) -> None:
        """
        Take notice of a worker's new state.
        """

    def notified(self, worker: WorkerProcess, line: str) -> None:
        """
        Take notice of a line of a message.
        """

    def gone(self, worker: WorkerProcess) -> None:
        """
        Take notice of a process whose descriptors the kernel has closed.
        """

    def ended(self, worker: WorkerProcess, end: End) -> None:
        """
        Take notice of a process that ended.  The worker still has the state of that time.
        """


class WorkerProcess(ProcessProtocol):
    """
    The record of one worker.

    @ivar began: when its process began, by the reactor's clock.
    @ivar retired: whether it was asked to end, so that no other process follows.
    @ivar has_served: whether its process serves, or has served.
    @ivar was_up: whether its process stands by or serves, or has done so.
    @ivar verifies: whether its process reads the whole store before it serves.
    @ivar status: the status of its process, in the process's own words.
    @ivar last_end: how the last process that ended did so.
    @ivar restart_delay: the delay before the next start.
    """

    _log = Logger()

    def __init__(
        self, name: str, reactor: Reactor, overseer: Overseer, watchdog: float
    ) -> None:
        """
        @param watchdog: seconds of silence that are too long.
        """
        self.name = name
        self.state = State.WAITING
        self.retired = False
        self.has_served = False
        self.was_up = False
        self.verifies = False
        self.status = ""
        self.last_end: End | None = None
        self.began = 0.0
        self._reactor = reactor
        self._overseer = overseer
        self._watchdog = watchdog
        self.restart_delay = RestartDelay()
        # The timer of the next start or, while there is a process, of its SIGKILL.
        self._timer: IDelayedCall | None = None
        self._has_progressed = False
        self._last_heard = 0.0
        self._deadline = 0.0
        self._streams: dict[int, Lines] = {}

    @property
    def is_up(self) -> bool:
        """
        Return whether the worker serves or could take over.
        """
        return self.state in (State.STANDBY, State.ACTIVE)

    @property
    def is_verifying(self) -> bool:
        """
        Return whether the worker has begun to verify the store, and may come to serve.
        """
        return self.state is State.STARTING and self._has_progressed

    @property
    def pid(self) -> int | None:
        """
        Return the process id, or C{None} if there is no process.
        """
        transport: IProcessTransport | None = self.transport
        if self.state not in RUNNING or transport is None:
            return None
        pid: int = transport.pid
        return pid

    # Starting.

    def start(self) -> None:
        """
        Start a process.

        A worker that is about to serve has the processors to itself: on one processor, two
        that start at once would take half as long again until the first answer.
        """
        if self._overseer.in_succession:
            self._timer = self._reactor.callLater(STEP_ASIDE, self.start)
            return
        command = self._overseer.command()
        self._timer = None
        self.state, self.status = State.STARTING, ""
        self.has_served, self.was_up, self.verifies = False, False, command.verifies
        self._has_progressed = False
        self.began = self._last_heard = self._reactor.seconds()
        self._deadline = self.began + START_PATIENCE
        self._streams = {
            1: Lines(self.output_received),
            2: Lines(self.output_received),
            MESSAGES: Lines(self.message_received),
        }
        try:
            self._reactor.spawnProcess(
                self,
                command.arguments[0],
                command.arguments,
                command.environment,
                # Standard input is a pipe that nobody writes to.
                childFDs={0: "w", 1: "r", 2: "r", MESSAGES: "r", **command.descriptors},
            )
        except OSError as error:
            self._log.error("cannot start {name}: {error}", name=self.name, error=error)
            self.processEnded(Failure(ProcessTerminated(exitCode=1)))

    def connectionMade(self) -> None:
        """
        Note that the process runs.
        """
        self._log.info("{name} is process {pid}", name=self.name, pid=self.pid)
        self._overseer.changed(self)

    # Output and messages.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """
        Take some bytes of the process's output or of its messages.
        """
        self._streams[childFD].feed(data)

    def output_received(self, line: str) -> None:
        """
        Put a line of the process's output into the log.
        """
        level, facility, rest = level_of(line)
        self._log.emit(level, "{line}", line=rest, process=self.name, facility=facility)

    def message_received(self, line: str) -> None:
        """
        Take one line of a message.

        A worker repeats its state with each sign of life, so a message that did not fit
        into the pipe is made up for by the next.
        """
        if self.state is State.SILENT:
            # It is being killed, and may not have the time to do what a message announces.
            return
        name, _, value = line.partition("=")
        self._last_heard = self._reactor.seconds()
        patience = self._watchdog
        self._has_progressed |= name == _EXTEND
        if name == _EXTEND and value.isdecimal() and len(value) < 12:  # noqa: PLR2004 a day and more, in microseconds
            patience = max(patience, int(value) / 1e6)
        self._deadline = self._last_heard + patience
        if line == READY and self.state in _BEFORE_SERVING:
            self.has_served = self.was_up = True
            self._enter(State.ACTIVE)
        elif line == STANDING_BY and self.state in (State.STARTING, State.NOT_READY):
            self.was_up = True
            self._enter(State.STANDBY)
        elif line == NOT_READY and self.state in (State.STARTING, State.STANDBY):
            self._enter(State.NOT_READY)
        elif line == STOPPING and self.state is not State.STOPPING:
            self._enter(State.STOPPING)
        if line == ALIVE or name == _EXTEND:
            self._overseer.notified(self, line)
        elif name == "STATUS" and value != self.status:
            self.status = value
            self._overseer.notified(self, line)

    def _enter(self, state: State) -> None:
        self.state = state
        self._log.info("{name} {does}", name=self.name, does=state.value)
        self._overseer.changed(self)

    # Stopping and killing.

    def retire(self) -> None:
        """
        Have the process end, in order if it can, and start no other.
        """
        if self.retired:
            return
        self.retired = True
        if self.state is State.WAITING:
            self._stop_timer()
            self.state = State.ENDED
            self._overseer.changed(self)
        elif self.state in RUNNING and self.state is not State.SILENT:
            self.state = State.STOPPING
            self._signal(signal.SIGTERM)
            self._kill_after(KILL_TIME)

    def watch(self, *, excused: bool) -> None:
        """
        Kill a process that was silent for too long, once it has written where it hangs.

        @param excused: whether messages could not be read, because the supervisor hung.
        """
        now = self._reactor.seconds()
        if excused:
            self._last_heard = now
            self._deadline = max(self._deadline, now + self._watchdog)
        if now > self._deadline and self.state in RUNNING - {State.SILENT}:
            self.state = State.SILENT
            self._log.error(
                "{name} has been silent for {silence:.1f} seconds and is replaced",
                name=self.name,
                silence=now - self._last_heard,
            )
            self._signal(signal.SIGABRT)
            self._kill_after(LAST_WORDS)
            self._overseer.changed(self)

    def _kill_after(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._reactor.callLater(seconds, self._signal, signal.SIGKILL)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessExitedAlready):
            if self.transport is not None:
                self.transport.signalProcess(number)

    # The end of the process.
    def childConnectionLost(self, childFD: int) -> None:
        """
        Note the end of the messages, which is seen before the end of the process itself.
        """
        if childFD == MESSAGES:
            self._overseer.gone(self)

    def processEnded(self, reason: Failure) -> None:
        """
        Start the next process, at once or after a delay, unless this one was asked to end.
        """
        self._stop_timer()
        for each in self._streams.values():
            each.end()
        self.last_end = end = End.of(reason)
        try:
            self._overseer.ended(self, end)
        finally:
            # Whatever goes wrong above, a worker that is not retired starts again.
            if self.retired:
                self.state = State.ENDED
            else:
                self.state = State.WAITING
                lived = self._reactor.seconds() - self.began
                delay = self.restart_delay.after(lived, was_up=self.was_up)
                self._timer = self._reactor.callLater(delay, self.start)
            self._overseer.changed(self)
