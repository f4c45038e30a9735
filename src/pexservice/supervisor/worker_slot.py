"""
A worker process, as the supervisor sees it, and the slot that starts worker processes.

A L{WorkerSlot} has a name, such as C{worker-1}, and one L{WorkerProcess} after another.
When a process ends by itself, the slot starts the next one.  A L{WorkerProcess} reads the
messages and the output of one process, and stops or kills this process.

A message consists of lines of systemd's notify protocol.  Each process writes its messages
into its own pipe, whose writing end no other process has.  So no other can send messages
in its name.  A process ends when the supervisor ends; see L{pexservice.process.children}.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import (
    IDelayedCall,
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
from pexservice.supervisor.worker_setup import WorkerSetup

if TYPE_CHECKING:
    from pexservice.supervisor.worker_pool import WorkerPool

#: The file descriptor to which a worker writes its messages.
MESSAGES_FD = 3

#: The pipes of a process, as C{spawnProcess} takes them.  The supervisor writes nothing to
#: pipe 0, the standard input.
PIPES = {0: "w", 1: "r", 2: "r", MESSAGES_FD: "r"}

#: A longer line of output or of a message is divided into several lines.
MAX_OUTPUT_LINE_BYTES = 8192

#: How long a process may take until its first message.
START_TIMEOUT_SECONDS = 60.0

#: The time between SIGABRT and SIGKILL, in which a silent process writes its traceback.
TRACEBACK_SECONDS = 1.0

#: The time between SIGTERM and SIGKILL.  A worker needs less than 4 seconds to stop.
STOP_TIMEOUT_SECONDS = 7.0

#: A slot waits before it starts the next process: at first MIN_BACKOFF_SECONDS, and then
#: twice as long each time, up to MAX_BACKOFF_SECONDS.  When the process is up, or any
#: process becomes active, the delays begin again with MIN_BACKOFF_SECONDS.
MIN_BACKOFF_SECONDS = 0.02
MAX_BACKOFF_SECONDS = 5.0


class SupervisorReactor(IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTime):
    """
    The parts of a reactor that a supervisor needs.
    """


class WorkerState(Enum):
    """
    The state of a process, as the supervisor's report shows it.
    """

    #: The process imports modules, opens the store or verifies it.
    STARTING = "starting"
    #: The process waits for the store's lock.
    STANDBY = "standby"
    #: The process accepts requests.
    ACTIVE = "active"
    #: The process has sent a reason why it can neither be active nor stand by.  It retries.
    NOT_READY = "not ready"
    #: The process was asked to end, or ends by itself.
    STOPPING = "stopping"
    #: The process sent no message for too long, and is being killed.
    SILENT = "silent"


#: A process that is I{up} accepts requests, or will as soon as it gets the store's lock.
_UP = (WorkerState.STANDBY, WorkerState.ACTIVE)

#: The messages with which a process reports a state.  The text completes the line
#: C{worker-1 ...} in the log.
_STATE_MESSAGES = {
    READY: (WorkerState.ACTIVE, "serves"),
    STANDBY: (WorkerState.STANDBY, "stands by"),
    NOT_READY: (WorkerState.NOT_READY, "is not ready"),
    STOPPING: (WorkerState.STOPPING, "stops"),
}


@define(eq=False)
class LineBuffer:
    """
    Divides a stream of bytes into lines, in bounded memory.
    """

    # Called with each line.
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
        Treat the bytes after the last newline as a line, if there are any.
        """
        if self._rest:
            self._pass_on(self._rest)

    def _pass_on(self, line: bytes) -> None:
        self._line_received(line.decode("utf-8", "backslashreplace"))


@define(eq=False)
class WorkerSlot:
    """
    A name, such as C{worker-1}, under which one worker process after another runs.

    @ivar setup: how the processes of this slot are started and watched.
    @ivar pool: decides when a slot that is due starts its next process.
    @ivar process: the newest process, which may have ended; C{None} before the first one.
    @ivar retired: whether the slot was asked to end, so that no other process follows.
    @ivar backoff_seconds: the next delay before a start.
    """

    _log = Logger()

    name: str
    setup: WorkerSetup
    pool: WorkerPool
    _reactor: SupervisorReactor
    process: WorkerProcess | None = field(init=False, default=None)
    retired: bool = field(init=False, default=False)
    backoff_seconds: float = field(init=False, default=MIN_BACKOFF_SECONDS)
    _restart_timer: IDelayedCall | None = field(init=False, default=None)

    @property
    def running_process(self) -> WorkerProcess | None:
        return None if self.process is None or self.process.ended else self.process

    @property
    def has_ended(self) -> bool:
        return self.retired and self.running_process is None

    @property
    def is_due(self) -> bool:
        """
        Return whether a process should start: none runs, and no delay is in progress.
        """
        is_delayed = self._restart_timer is not None and self._restart_timer.active()
        return not (self.retired or self.running_process or is_delayed)

    def start(self) -> None:
        process = self.process = WorkerProcess(self, self._reactor)
        try:
            self.pool.spawn(process, self.setup)
        except Exception as error:  # noqa: BLE001 the slot tries again, also after a bug
            # Only a bug needs its traceback.
            log = self._log.error if isinstance(error, OSError) else self._log.failure
            log("cannot start {name}: {error}", name=self.name, error=error)
            process.record_end(Status.CANNOT_START)

    def restart_later(self) -> None:
        """
        Start the next process after a delay, unless this slot is retired.
        """
        if not self.retired:
            self._restart_timer = self._reactor.callLater(
                self.backoff_seconds, self.pool.start_due_slots
            )
            self.backoff_seconds = min(2 * self.backoff_seconds, MAX_BACKOFF_SECONDS)

    def retire(self) -> None:
        """
        Ask the process to stop, kill it after a timeout, and start no other process.
        """
        if not self.retired and self.running_process is not None:
            self.running_process.stop()
        self.retired = True


class WorkerProcess(ProcessProtocol):
    """
    A worker process, from its start to its end.

    @ivar pid: the process id; 0 if the process could not be started.
    @ivar started_at: when the process was started, by the reactor's clock.
    @ivar was_active: whether the process has been active.
    @ivar was_up: whether the process has been a standby or active.
    @ivar status_text: the text of the last C{STATUS=} line.  Before a process ends by
        itself, it sends the reason in such a line.  If a signal ended the process, the text
        is empty.
    @ivar ended: whether the process has ended, or could not be started.
    @ivar exit_status: how the process ended: its exit status or, as in C{subprocess}, the
        negative number of the signal that ended it.
    """

    _log = Logger()

    def __init__(self, slot: WorkerSlot, reactor: SupervisorReactor) -> None:
        self.slot = slot
        self.name = slot.name
        self.pid = 0
        self.state = WorkerState.STARTING
        self.was_active = self.was_up = False
        self.status_text = ""
        self.ended = False
        self.exit_status = 0
        self.started_at = self._last_heard = reactor.seconds()
        self._reactor = reactor
        self._pool = slot.pool
        # Each message begins a new time limit: the watchdog's timeout, or a longer time
        # that the message asks for.
        self._deadline = self.started_at + START_TIMEOUT_SECONDS
        self._kill_timer: IDelayedCall | None = None
        # A process asks for a longer time only while it verifies the store.
        self._asked_for_time = False
        self._streams = {
            1: LineBuffer(self.output_received),
            2: LineBuffer(self.output_received),
            MESSAGES_FD: LineBuffer(self.message_received),
        }

    @property
    def is_up(self) -> bool:
        return self.state in _UP and not self.ended

    @property
    def is_verifying(self) -> bool:
        """
        Return whether the process is verifying the store, and may still become active.
        """
        return self.state is WorkerState.STARTING and self._asked_for_time

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.pid = transport.pid
        self._log.info("{name} is process {pid}", name=self.name, pid=self.pid)
        self._pool.after_change()

    # Output and messages.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._streams[childFD].feed(data)

    def output_received(self, line: str) -> None:
        level, facility, text = level_of(line)
        self._log.emit(level, "{line}", line=text, process=self.name, facility=facility)

    def message_received(self, line: str) -> None:
        """
        Process one line of a message.
        """
        if self.state is WorkerState.SILENT:
            # The process is being killed, so its messages are ignored.
            return
        name, _, value = line.partition("=")
        self._last_heard = self._reactor.seconds()
        timeout = self.slot.setup.watchdog
        if name == EXTEND_TIMEOUT:
            self._asked_for_time = True
            timeout = max(timeout, int(value) / 1e6)
        self._deadline = self._last_heard + timeout
        if line in _STATE_MESSAGES:
            self._enter_state(line)
        elif line == ALIVE or name == EXTEND_TIMEOUT:
            self._pool.reporter.forward(line)
        elif name == "STATUS" and value != self.status_text:
            self.status_text = value
            self._pool.on_status_text(self)

    def _enter_state(self, line: str) -> None:
        """
        Enter the state that the process reports.

        A process sends its state again with each heartbeat, because an earlier message may
        not have fitted into the pipe.
        """
        state, action = _STATE_MESSAGES[line]
        # A process that was asked to end may still report its earlier state.
        if state is self.state or self.state is WorkerState.STOPPING:
            return
        self.state = state
        if state in _UP:
            self.was_up = True
            self.slot.backoff_seconds = MIN_BACKOFF_SECONDS
        if state is WorkerState.ACTIVE:
            self.was_active = True
        if state is WorkerState.STANDBY:
            # The text may name a problem that is solved now.  A later end must not be
            # explained by that problem.
            self.status_text = ""
        self._log.info("{name} {action}", name=self.name, action=action)
        self._pool.on_state(self)

    # Stopping and killing.

    def stop(self) -> None:
        """
        Send SIGTERM, and SIGKILL after L{STOP_TIMEOUT_SECONDS}.
        """
        # For a silent process, L{kill_if_silent} has already set an earlier SIGKILL.
        if self.state is not WorkerState.SILENT:
            self.state = WorkerState.STOPPING
            self._signal(signal.SIGTERM)
            self._kill_after(STOP_TIMEOUT_SECONDS)

    def restart_time_limit(self) -> None:
        """
        Begin the time limit of the process again.

        The supervisor was late, so it may not have read all messages of the process.
        """
        self._last_heard = self._reactor.seconds()
        self._deadline = max(self._deadline, self._last_heard + self.slot.setup.watchdog)

    def kill_if_silent(self) -> None:
        """
        Kill the process if it has sent no message for too long.

        First send SIGABRT, at which the process writes the traceback of each thread.  Send
        SIGKILL L{TRACEBACK_SECONDS} later.
        """
        now = self._reactor.seconds()
        if now > self._deadline and self.state is not WorkerState.SILENT:
            self.state = WorkerState.SILENT
            self._log.error(
                "no heartbeat from {name} for {silence:.1f} s; replacing it",
                name=self.name,
                silence=now - self._last_heard,
            )
            self._signal(signal.SIGABRT)
            self._kill_after(TRACEBACK_SECONDS)
            self._pool.after_change()

    def _kill_after(self, seconds: float) -> None:
        self._cancel_kill()
        self._kill_timer = self._reactor.callLater(seconds, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessExitedAlready):
            if self.transport is not None:
                self.transport.signalProcess(number)

    # The end.

    def childConnectionLost(self, childFD: int) -> None:
        """
        If an active process closes its message pipe, report that it is ending.

        The supervisor notices the closed pipe earlier than the end of the process.
        """
        if childFD == MESSAGES_FD and self.was_active:
            self._pool.reporter.on_active_ending(self.name, self._reactor.seconds())

    def processEnded(self, reason: Failure) -> None:
        for stream in self._streams.values():
            stream.end()
        error: Any = reason.value
        if error.signal is None:
            self.record_end(error.exitCode)
        else:
            # The process did not end by itself, so its last text is not the reason.
            self.status_text = ""
            self.record_end(-error.signal)

    def record_end(self, exit_status: int) -> None:
        self._cancel_kill()
        self.ended, self.exit_status = True, exit_status
        self._pool.on_end(self)

    def _cancel_kill(self) -> None:
        if self._kill_timer is not None and self._kill_timer.active():
            self._kill_timer.cancel()
