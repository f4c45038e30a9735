"""
One worker: how it starts, fails and stops.
"""

from __future__ import annotations

import gc

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.interface import CommitterBug
from pexservice.process.exit_status import CannotStart, ProcessExit, Status
from pexservice.process.sd_notify import READY, STOPPING, Notifier
from pexservice.process.timing import Periodic
from pexservice.settings.options import WorkerSettings
from pexservice.stores.errors import StoreDamaged, StoreError
from pexservice.worker.assembly import WorkerParts, WorkerReactor, assemble
from pexservice.worker.messages import (
    HEARTBEATS_PER_WATCHDOG,
    connect_notifier,
    handle_signals_as_supervised,
)

#: The delay before a worker tries again to open the store.  It doubles with each failure,
#: from the first of these values up to the second one.
MIN_OPEN_RETRY_SECONDS = 0.5
MAX_OPEN_RETRY_SECONDS = 5.0


class Worker(Service):
    _log = Logger()

    def __init__(self, settings: WorkerSettings, reactor: WorkerReactor) -> None:
        self._settings = settings
        self._reactor = reactor
        self._exit = ProcessExit(
            reactor,
            terminal=settings.foreground and not settings.is_supervised,
            logs=not settings.is_supervised,
        )
        self._notifier = Notifier()
        self._starting: Deferred[None] = succeed(None)
        self._parts: WorkerParts | None = None

    # Starting.

    def startService(self) -> None:
        super().startService()
        self._exit.watch_reactor()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._end_after_failed_start)

    async def _start(self) -> None:
        """
        Make the parts, open the store or wait for it, and accept connections.

        During a reload, the supervisor ends the old workers as soon as this worker stands
        by.  A wrong option must be found earlier.  So L{assemble} checks all that depends
        on the options, such as a file or a socket, before this worker opens the store.
        """
        self._notifier = connect_notifier(self._settings)
        if self._settings.is_supervised:
            handle_signals_as_supervised()
        if self._notifier.watchdog is not None:
            interval = self._notifier.watchdog / HEARTBEATS_PER_WATCHDOG
            Periodic(self._send_heartbeat, self._reactor).start(interval, now=True)
        parts = self._parts = assemble(
            self._settings,
            self._reactor,
            notifier=self._notifier,
            on_fatal_failure=self._end_after_failure,
        )
        # The objects that exist now live as long as the process, so the garbage collector
        # need not check them again.
        gc.freeze()
        parts.inactive_phase.start()
        await self._open_store(parts)
        parts.inactive_phase.stop()
        parts.listeners.open()
        state = parts.committer.durable
        cursor = f"revision {state.revision}, position {state.position}"
        self._log.info("the cursor is at {cursor}", cursor=cursor)
        self._notifier.notify_repeatedly(READY, f"STATUS=serving since {cursor}")

    async def _send_heartbeat(self) -> None:
        """
        Wait for the end of the commit in progress, and send a heartbeat.

        So if the reactor is blocked or a commit hangs, the heartbeats stop.  While the
        store is verified, L{VerificationProgress} sends the heartbeats.
        """
        if self._parts is not None:
            if self._parts.verification_progress.in_progress:
                return
            await self._parts.committer.wait_for_commit()
        self._notifier.send_heartbeat()

    async def _open_store(self, parts: WorkerParts) -> None:
        """
        Open the store, and retry after an error that may pass.
        """
        phase = parts.inactive_phase
        # Only a worker that has a supervisor waits for the store's lock.
        on_standby = phase.stand_by if self._settings.is_supervised else None
        delay = MIN_OPEN_RETRY_SECONDS
        while True:
            try:
                await parts.committer.start(on_standby)
            except StoreError as error:
                if not phase.may_retry(error):
                    raise
                phase.store_failed_to_open(str(error))
            else:
                return
            finally:
                parts.verification_progress.in_progress = False
            await deferLater(self._reactor, delay, lambda: None)
            delay = min(2 * delay, MAX_OPEN_RETRY_SECONDS)

    # Failing.

    def _end_after_failed_start(self, failure: Failure) -> None:
        """
        End the process, which otherwise might hold the store's lock and never serve.
        """
        error, reason = failure.value, failure.getErrorMessage()
        if isinstance(error, CancelledError):
            # stopService has cancelled the start, and ends the process.
            return
        if not isinstance(error, (CannotStart, StoreError)):
            if not isinstance(error, OSError):
                # This is a bug.  The traceback shows where it is.
                self._log.failure("the start failed", failure=failure)
                reason = f"{type(error).__name__}: {reason}"
            reason = f"cannot start: {reason}"
        self._exit_with(getattr(error, "exit_status", Status.CANNOT_START), reason)

    def _end_after_failure(self, failure: Failure) -> None:
        """
        End the process after a failed commit, damage to the store, or a bug.

        If this process cannot know whether the disk has a batch, the next process finds
        out when it reads the cursor from the disk.
        """
        reason = failure.getErrorMessage()
        if failure.check(CommitterBug):
            self._exit_with(Status.BUG, reason)
            return
        self._log.failure("the store failed", failure=failure)
        if failure.check(StoreDamaged):
            self._exit_with(Status.DAMAGED, reason)
            return
        self._exit_with(
            Status.STORE_FAILED, f"the store failed ({reason}), so this process ends"
        )

    def _exit_with(self, status: Status, reason: str) -> None:
        self._notifier.notify(f"STATUS={reason}")
        self._exit.exit_with(status, reason)

    # Stopping.

    def stopService(self) -> Deferred[None]:
        """
        Respond to the requests that clients have sent, then close the store.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._notifier.notify_repeatedly(STOPPING)
        self._starting.cancel()
        parts = self._parts
        if parts is not None:
            parts.inactive_phase.stop()
            parts.events.close()
            serves = parts.listeners.are_open and parts.committer.step_refusal is None
            await parts.server.drain(parts.listeners.close, serves=serves)
            parts.server.stop()
            await parts.committer.stop()
        self._notifier.close()
