"""
A worker, as the supervisor sees it.

A worker has a name, such as C{worker-1}, and runs one process after another: when a process
ends by itself, the next one is started.

A message consists of lines of systemd's notify protocol.  Each process writes its messages
into its own pipe, whose writing end no other process has.  So no other can send messages
in its name.  A process ends when the supervisor ends; see L{pexservice.process.children}.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

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

#: A line of output or of a message that becomes longer is divided into several lines.
MAX_OUTPUT_LINE_BYTES = 8192

#: How long a process may take until its first message.
START_TIMEOUT_SECONDS = 60.0

#: The time between SIGABRT and SIGKILL, in which a silent process writes its traceback.
TRACEBACK_SECONDS = 1.0

#: The time between SIGTERM and SIGKILL.  A worker needs less than 4 seconds to stop.
STOP_TIMEOUT_SECONDS = 7.0

#: A worker waits before its next process is started: at first MIN_BACKOFF_SECONDS, and then
#: twice as long each time, up to MAX_BACKOFF_SECONDS.  When the process is up, or any
#: worker becomes active, the delays begin again with MIN_BACKOFF_SECONDS.
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


class SupervisedWorker(ProcessProtocol):
    """
    A worker: a name, and one process after another.

    C{setup}, C{retired} and C{backoff_seconds} belong to the worker.  The other attributes
    describe the newest process, which may have ended.

    @ivar setup: how the processes are started and watched.
    @ivar retired: whether the worker was asked to end, so that no other process follows.
    @ivar backoff_seconds: the next delay before a start.
    @ivar running: whether the process runs.
    @ivar pid: the process id; 0 before the first process, or if the process could not be
        started.
    @ivar started_at: when the process was started, by the reactor's clock.
    @ivar was_active: whether the process has been active.
    @ivar was_up: whether the process has been a standby or active.
    @ivar status_text: the text of the last C{STATUS=} line.  Before a process ends by
        itself, it sends the reason in such a line.  If a signal ended the process, the text
        is empty.
    @ivar exit_status: how the process ended: its exit status or, as in C{subprocess}, the
        negative number of the signal that ended it.
    """

    _log = Logger()

    def __init__(
        self, name: str, setup: WorkerSetup, pool: WorkerPool, reactor: SupervisorReactor
    ) -> None:
        self.name = name
        self.setup = setup
        self.retired = self.running = False
        self.backoff_seconds = MIN_BACKOFF_SECONDS
        self._pool = pool
        self._reactor = reactor
        # While a process runs, the timer kills it; later, the timer starts the next one.
        self._timer: IDelayedCall | None = None
        self._expect_process()

    def _expect_process(self) -> None:
        """
        Forget the last process.
        """
        self.pid = 0
        self.state = WorkerState.STARTING
        self.was_active = self.was_up = False
        self.status_text = ""
        self.exit_status = 0
        self.started_at = self._last_heard = self._reactor.seconds()
        # Each message begins a new time limit: the watchdog's timeout, or a longer time
        # that the message asks for.
        self._deadline = self.started_at + START_TIMEOUT_SECONDS
        # A process asks for a longer time only while it verifies the store.
        self._asked_for_time = False
        # For each pipe, the bytes after the last newline.
        self._unfinished_lines: dict[int, bytes] = {}

    @property
    def is_due(self) -> bool:
        """
        Return whether a process should start: none runs, and no delay is in progress.
        """
        is_delayed = self._timer is not None and self._timer.active()
        return not (self.retired or self.running or is_delayed)

    @property
    def is_up(self) -> bool:
        return self.running and self.state in _UP

    @property
    def is_verifying(self) -> bool:
        """
        Return whether the process is verifying the store, and may still become active.
        """
        return self.state is WorkerState.STARTING and self._asked_for_time

    def start(self) -> None:
        self._expect_process()
        self.running = True
        try:
            self._pool.spawn(self)
        except Exception as error:  # noqa: BLE001 the next try follows, also after a bug
            # Only a bug needs its traceback.
            log = self._log.error if isinstance(error, OSError) else self._log.failure
            log("cannot start {name}: {error}", name=self.name, error=error)
            self.record_end(Status.CANNOT_START)

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.pid = transport.pid
        self._log.info("{name} is process {pid}", name=self.name, pid=self.pid)
        self._pool.after_change()

    # Output and messages.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._unfinished_lines.get(childFD, b"") + data).split(b"\n")
        if len(rest) > MAX_OUTPUT_LINE_BYTES:
            lines.append(rest)
            rest = b""
        self._unfinished_lines[childFD] = rest
        for line in lines:
            self._line_received(childFD, line)

    def _line_received(self, pipe: int, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace")
        if pipe == MESSAGES_FD:
            self._message_received(text)
        else:
            self._log_output(text)

    def _log_output(self, line: str) -> None:
        level, facility, text = level_of(line)
        self._log.emit(level, "{line}", line=text, process=self.name, facility=facility)

    def _message_received(self, line: str) -> None:
        """
        Process one line of a message.
        """
        if self.state is WorkerState.SILENT:
            # The process is being killed, so its messages are ignored.
            return
        name, _, value = line.partition("=")
        self._last_heard = self._reactor.seconds()
        timeout = self.setup.watchdog
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
            self.backoff_seconds = MIN_BACKOFF_SECONDS
        if state is WorkerState.ACTIVE:
            self.was_active = True
        if state is WorkerState.STANDBY:
            # The text may name a problem that is solved now.  A later end must not be
            # explained by that problem.
            self.status_text = ""
        self._log.info("{name} {action}", name=self.name, action=action)
        self._pool.on_state(self)

    # Stopping and killing.

    def retire(self) -> None:
        """
        Stop the process by SIGTERM, or by SIGKILL after L{STOP_TIMEOUT_SECONDS}.

        No other process is started.
        """
        # For a silent process, L{kill_if_silent} has already set an earlier SIGKILL.
        if self.running and not self.retired and self.state is not WorkerState.SILENT:
            self.state = WorkerState.STOPPING
            self._signal(signal.SIGTERM)
            self._kill_after(STOP_TIMEOUT_SECONDS)
        self.retired = True

    def restart_time_limit(self) -> None:
        """
        Begin the time limit of the process again.

        The supervisor was late, so it may not have read all messages of the process.
        """
        self._last_heard = self._reactor.seconds()
        self._deadline = max(self._deadline, self._last_heard + self.setup.watchdog)

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
                "no heartbeat from {name} for {silence:.1f} s; killing it",
                name=self.name,
                silence=now - self._last_heard,
            )
            self._signal(signal.SIGABRT)
            self._kill_after(TRACEBACK_SECONDS)
            self._pool.after_change()

    def _kill_after(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self._reactor.callLater(seconds, self._signal, signal.SIGKILL)

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
        for pipe, rest in self._unfinished_lines.items():
            if rest:
                self._line_received(pipe, rest)
        error: Any = reason.value
        if error.signal is None:
            self.record_end(error.exitCode)
        else:
            # The process did not end by itself, so its last text is not the reason.
            self.status_text = ""
            self.record_end(-error.signal)

    def record_end(self, exit_status: int) -> None:
        """
        Record the end of the process, and start the next one after a delay.
        """
        self._cancel_timer()
        self.running, self.exit_status = False, exit_status
        if not self.retired:
            self._timer = self._reactor.callLater(
                self.backoff_seconds, self._pool.start_due_workers
            )
            self.backoff_seconds = min(2 * self.backoff_seconds, MAX_BACKOFF_SECONDS)
        self._pool.on_end(self)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
