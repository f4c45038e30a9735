"""
One worker as its supervisor sees it: its name, its state and its present process.

L{SupervisedWorker} starts, watches, stops and kills the process, and reads its output and
its messages.  If the process ends by itself, L{SupervisedWorker} starts another process
with the same name.

Each process writes systemd's notify messages into its own pipe.  No other process has the
writing end, so no other process can send messages in its name.  The process ends when the
supervisor ends; see L{pexservice.process.children}.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import (
    IDelayedCall,
    IProcessTransport,
    IReactorCore,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.process.exit_status import Status
from pexservice.process.log_lines import level_of
from pexservice.process.sd_notify import (
    ALIVE,
    EXTEND_TIMEOUT,
    NOT_READY,
    READY,
    STANDBY,
    STOPPING,
)

if TYPE_CHECKING:
    from pexservice.supervisor.workers import Workers

#: The file descriptor to which a worker writes its messages.
MESSAGES_FD = 3

#: The pipes of a worker, as C{spawnProcess} takes them.  Standard input has no data.
_PIPES = {0: "w", 1: "r", 2: "r", MESSAGES_FD: "r"}

#: A longer line of output is divided into several lines.
MAX_OUTPUT_LINE_BYTES = 8192

#: How long a process may take until its first message.
START_TIMEOUT_SECONDS = 60.0

#: How long a start is delayed while another worker is about to become active.
COMPETING_START_RETRY_SECONDS = 0.05

#: The time between SIGABRT and SIGKILL, in which a silent process writes its traceback.
TRACEBACK_SECONDS = 1.0

#: The time between SIGTERM and SIGKILL.  A worker needs less than 4 seconds to stop.
STOP_TIMEOUT_SECONDS = 7.0

#: If a process was up and lived for this long, the next process starts at once.
MIN_LIFE_SECONDS = 1.0

#: The first and the longest delay before the next process, if the last one was not up or
#: lived for less than L{MIN_LIFE_SECONDS}.  The delay doubles each time, until a process is
#: up or any worker becomes active.
MIN_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 5.0


class SupervisorReactor(IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTime):
    """
    The parts of a reactor that a supervisor needs.
    """


class WorkerState(Enum):
    """
    The state of a worker; the value completes the sentence "worker-1 ..." in the log.
    """

    #: There is no process.  The next one will be started.
    WAITING = "waits to be started"
    #: The process imports modules, opens the store or verifies it.
    STARTING = "starts"
    #: The process waits for the store's lock.
    STANDBY = "stands by"
    #: The process accepts requests.
    ACTIVE = "serves"
    #: The process has sent a reason why it can neither be active nor stand by.  It retries.
    NOT_READY = "is not ready"
    #: The process was asked to end, or ends by itself.
    STOPPING = "stops"
    #: The process sent no message for too long, and is being killed.
    SILENT = "is silent"
    #: There is no process, and no other one will be started.
    ENDED = "has ended"

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


#: States of a worker that has a process.
STATES_WITH_PROCESS = frozenset(WorkerState) - {WorkerState.WAITING, WorkerState.ENDED}

_UP = (WorkerState.STANDBY, WorkerState.ACTIVE)

#: For each message: the state after the message, and the states before it.  In any other
#: state, the message changes nothing.
_STATE_CHANGES = {
    READY: (
        WorkerState.ACTIVE,
        {WorkerState.STARTING, WorkerState.STANDBY, WorkerState.NOT_READY},
    ),
    STANDBY: (WorkerState.STANDBY, {WorkerState.STARTING, WorkerState.NOT_READY}),
    NOT_READY: (WorkerState.NOT_READY, {WorkerState.STARTING, WorkerState.STANDBY}),
    STOPPING: (WorkerState.STOPPING, STATES_WITH_PROCESS - {WorkerState.STOPPING}),
}


@define(eq=False)
class OutputLines:
    """
    Divides a stream of bytes into lines, in bounded memory.
    """

    _line_received: Callable[[str], object]
    _rest: bytes = field(init=False, default=b"")

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            for start in range(0, len(line) or 1, MAX_OUTPUT_LINE_BYTES):
                self._pass_on(line[start : start + MAX_OUTPUT_LINE_BYTES])
        while len(rest) > MAX_OUTPUT_LINE_BYTES:
            self._pass_on(rest[:MAX_OUTPUT_LINE_BYTES])
            rest = rest[MAX_OUTPUT_LINE_BYTES:]
        self._rest = rest

    def end(self) -> None:
        """
        Take what follows the last newline as a line, if it is not empty.
        """
        if self._rest:
            self._pass_on(self._rest)

    def _pass_on(self, line: bytes) -> None:
        self._line_received(line.decode("utf-8", "backslashreplace"))


class SupervisedWorker(ProcessProtocol):
    """
    A worker: a name, and one process after another.

    The attributes are about the process that runs.  While no process runs, they are about
    the one that ended last.

    @ivar began_at: when the process began, by the reactor's clock.
    @ivar retired: whether the worker was asked to end, so that no other process follows.
    @ivar was_active: whether the process has been active.
    @ivar was_up: whether the process has been a standby or active.
    @ivar status_text: the text of the last C{STATUS=} message.  When the process has ended,
        the text is the reason; it is empty if a signal ended the process.
    @ivar exit_status: the exit status of the last process that ended or, as in
        C{subprocess}, the negative number of the signal that ended it; at first 0.
    @ivar backoff_seconds: the next delay before a start.
    """

    _log = Logger()

    def __init__(
        self, name: str, reactor: SupervisorReactor, workers: Workers, watchdog: float
    ) -> None:
        """
        Make a worker that has no process yet.

        @param workers: decides about all workers.  Its C{on_} methods are called.
        @param watchdog: a process that sends no message for this many seconds is killed.
        """
        self.name = name
        self.state = WorkerState.WAITING
        self.retired = self.was_active = self.was_up = False
        self.status_text = ""
        self.exit_status = 0
        self.began_at = 0.0
        self.backoff_seconds = MIN_BACKOFF_SECONDS
        self._reactor = reactor
        self._workers = workers
        self._watchdog = watchdog
        self._start_timer: IDelayedCall | None = None
        self._kill_timer: IDelayedCall | None = None
        self._reported_progress = False
        self._last_heard = 0.0
        # Each message begins a new time limit: the watchdog's timeout, or a longer time
        # that the message asks for.
        self._deadline = 0.0
        self._streams: dict[int, OutputLines] = {}

    @property
    def is_up(self) -> bool:
        return self.state in _UP

    @property
    def is_verifying(self) -> bool:
        """
        Return whether the worker is verifying the store, and may still become active.
        """
        return self.state is WorkerState.STARTING and self._reported_progress

    @property
    def pid(self) -> int | None:
        transport: IProcessTransport | None = self.transport
        if self.state not in STATES_WITH_PROCESS or transport is None:
            return None
        pid: int = transport.pid
        return pid

    # Starting.

    def start(self) -> None:
        """
        Start a process, or wait if another worker is about to become active.
        """
        if self._workers.start_would_compete:
            self._start_timer = self._reactor.callLater(
                COMPETING_START_RETRY_SECONDS, self.start
            )
            return
        command, inherited = self._workers.worker_command_line(), self._workers.inherited
        self._start_timer = None
        self.state, self.status_text = WorkerState.STARTING, ""
        self.was_active = self.was_up = self._reported_progress = False
        self.began_at = self._last_heard = self._reactor.seconds()
        self._deadline = self.began_at + START_TIMEOUT_SECONDS
        self._streams = {
            1: OutputLines(self.output_received),
            2: OutputLines(self.output_received),
            MESSAGES_FD: OutputLines(self.message_received),
        }
        try:
            self._reactor.spawnProcess(
                self,
                command[0],
                command,
                {**inherited.environment, "WATCHDOG_USEC": f"{self._watchdog * 1e6:.0f}"},
                childFDs={**_PIPES, **inherited.descriptors},
            )
        except Exception as error:
            self._log.error("cannot start {name}: {error}", name=self.name, error=error)
            self._ended(Status.CANNOT_START)
            if not isinstance(error, OSError):
                # This is a bug.  The caller logs the traceback.
                raise

    def connectionMade(self) -> None:
        self._log.info("{name} is process {pid}", name=self.name, pid=self.pid)
        self._workers.on_change(self)

    # Output and messages.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._streams[childFD].feed(data)

    def output_received(self, line: str) -> None:
        level, facility, text = level_of(line)
        self._log.emit(level, "{line}", line=text, process=self.name, facility=facility)

    def message_received(self, line: str) -> None:
        """
        Process one line of a message.

        A worker sends its state again with each heartbeat, because an earlier message may
        not have fitted into the pipe.
        """
        if self.state is WorkerState.SILENT:
            # The process is being killed, so its messages are ignored.
            return
        name, _, value = line.partition("=")
        self._last_heard = self._reactor.seconds()
        timeout = self._watchdog
        if name == EXTEND_TIMEOUT:
            self._reported_progress = True
            if value.isdecimal() and len(value) < 12:  # noqa: PLR2004 less than 28 hours, in microseconds
                timeout = max(timeout, int(value) / 1e6)
        self._deadline = self._last_heard + timeout
        state, previous_states = _STATE_CHANGES.get(line, (self.state, ()))
        if self.state in previous_states:
            self.was_active |= state is WorkerState.ACTIVE
            self.was_up |= state in _UP
            self.state = state
            self._log.info("{name} {does}", name=self.name, does=state.value)
            self._workers.on_change(self)
        if line == ALIVE or name == EXTEND_TIMEOUT:
            self._workers.on_message(self, line)
        elif name == "STATUS" and value != self.status_text:
            self.status_text = value
            self._workers.on_message(self, line)

    # Stopping and killing.

    def retire(self) -> None:
        """
        Ask the process to stop, kill it if it does not, and start no other process.
        """
        if self.retired:
            return
        self.retired = True
        if self.state is WorkerState.WAITING:
            _cancel(self._start_timer)
            self.state = WorkerState.ENDED
            self._workers.on_change(self)
        elif self.state in STATES_WITH_PROCESS and self.state is not WorkerState.SILENT:
            self.state = WorkerState.STOPPING
            self._signal(signal.SIGTERM)
            self._kill_after(STOP_TIMEOUT_SECONDS)

    def watch(self, *, supervisor_was_late: bool) -> None:
        """
        Kill the process if it has sent no message for too long.

        First send SIGABRT, at which the process writes the traceback of each thread.  Send
        SIGKILL L{TRACEBACK_SECONDS} later.

        @param supervisor_was_late: whether the supervisor itself hung.  Then messages of
            the process may be in the pipe, unread.
        """
        now = self._reactor.seconds()
        if supervisor_was_late:
            self._last_heard = now
            self._deadline = max(self._deadline, now + self._watchdog)
        if now > self._deadline and self.state in STATES_WITH_PROCESS - {
            WorkerState.SILENT
        }:
            self.state = WorkerState.SILENT
            self._log.error(
                "no heartbeat from {name} for {silence:.1f} s; replacing it",
                name=self.name,
                silence=now - self._last_heard,
            )
            self._signal(signal.SIGABRT)
            self._kill_after(TRACEBACK_SECONDS)
            self._workers.on_change(self)

    def _kill_after(self, seconds: float) -> None:
        _cancel(self._kill_timer)
        self._kill_timer = self._reactor.callLater(seconds, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessExitedAlready):
            if self.transport is not None:
                self.transport.signalProcess(number)

    # The end of the process.

    def childConnectionLost(self, childFD: int) -> None:
        """
        Report the end of an active worker as soon as its pipe of messages closes.
        """
        if childFD == MESSAGES_FD and self.was_active:
            self._workers.on_active_ending(self)

    def processEnded(self, reason: Failure) -> None:
        _cancel(self._kill_timer)
        for stream in self._streams.values():
            stream.end()
        number = getattr(reason.value, "signal", None)
        status = getattr(reason.value, "exitCode", None) or 0
        self._ended(status if number is None else -number)

    def _ended(self, exit_status: int) -> None:
        """
        Start the next process, at once or after a delay, unless this worker was retired.
        """
        self.exit_status = exit_status
        if self.exit_status < 0:
            # The process was killed before it could send the reason.
            self.status_text = ""
        try:
            self._workers.on_process_ended(self)
        finally:
            # A worker that is not retired starts again, even after an exception.
            self.state = WorkerState.ENDED if self.retired else WorkerState.WAITING
            if not self.retired:
                self._start_timer = self._reactor.callLater(
                    self._restart_delay(), self.start
                )
            self._workers.on_change(self)

    def _restart_delay(self) -> float:
        if self.was_up:
            self.backoff_seconds = MIN_BACKOFF_SECONDS
            if self._reactor.seconds() - self.began_at >= MIN_LIFE_SECONDS:
                return 0.0
        delay = self.backoff_seconds
        self.backoff_seconds = min(2 * delay, MAX_BACKOFF_SECONDS)
        return delay


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()


def describe_end(exit_status: int) -> str:
    """
    Return how a process ended, to complete the sentence "worker-1 ended ...".
    """
    if exit_status >= 0:
        return f"with status {exit_status}"
    # Not every signal has a name.
    names = {number.value: number.name for number in signal.Signals}
    return f"by {names.get(-exit_status, f'signal {-exit_status}')}"
