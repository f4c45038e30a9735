"""
One worker: it puts store, committer, API and listeners together, serves, and stops.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 loaded now: the first URL needs it, maybe with no free descriptor
import gc
import os
import signal
import time
from socket import gethostname

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.committer import Committer
from pexservice.commit.interface import ICommitter
from pexservice.metrics import Metrics
from pexservice.process import scoreboard
from pexservice.process.exit_status import CannotStart, ProcessExit, Status
from pexservice.process.listening import (
    check_open_file_limit,
    max_connections,
    places,
)
from pexservice.process.scoreboard import StoreClaim
from pexservice.process.sd_notify import READY, STOPPING, Notifier
from pexservice.server.access_log import AccessLog
from pexservice.server.limits import Connections
from pexservice.server.reactor import event_loop
from pexservice.server.request_counters import RequestCounters
from pexservice.server.server import Server
from pexservice.settings.options import Settings
from pexservice.stores.interface import (
    IExclusiveStore,
    ISharedStore,
    IStore,
    IStoreReactor,
    StoreDamaged,
    StoreOptions,
    StoreUnavailable,
    StoreUnusable,
)
from pexservice.stores.registry import store_factory
from pexservice.web.access import Access, HostPolicy
from pexservice.web.api import Api
from pexservice.web.clients import Clients, RateLimit
from pexservice.web.endpoints import DEFAULT_TABLE, POST_ONLY_TABLE
from pexservice.web.events import MAX_STREAMS, Events
from pexservice.web.operations import RequestChecker
from pexservice.worker.files import Files, read_files
from pexservice.worker.lifecycle import VerificationProgress, connect, heartbeat
from pexservice.worker.unready import Listeners, Unready

#: How long a stopping worker still accepts requests.  It closes each connection after its
#: response, so no request is lost.  It waits in several steps: if a commit blocks the
#: process during one of them, the next one reads the requests that arrived meanwhile.
DRAIN_SECONDS = 0.3
DRAIN_STEPS = 6

#: How long a stopping worker then reads once more, before it closes idle connections.
READ_AGAIN_SECONDS = 0.001

#: How long a stopping worker waits for the first request of each connection that it has
#: accepted just before.
FIRST_REQUEST_SECONDS = 0.5

#: How long a stopping worker then waits for the responses to the requests in progress.
LAST_RESPONSE_SECONDS = 2

#: The delay before a store that could not be opened is tried again.
MIN_OPEN_RETRY_SECONDS = 0.5
MAX_OPEN_RETRY_SECONDS = 5.0


class WorkerReactor(IReactorCore, IStoreReactor):
    """
    The parts of a reactor that a worker needs.
    """


@frozen
class _Parts:
    """
    The parts of a worker that is prepared.

    @ivar progress: the heartbeat while the store is verified.
    """

    progress: VerificationProgress
    committer: ICommitter
    events: Events
    server: Server
    listeners: Listeners
    unready: Unready


class Worker(Service):
    """
    The service of one worker, which responds to requests.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: WorkerReactor,
        process_exit: ProcessExit | None = None,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._exit = process_exit or ProcessExit(
            reactor,
            terminal=settings.foreground and not settings.is_supervised,
            logs=not settings.is_supervised,
        )
        self._store_factory = store_factory(settings.store)
        self._connections = Connections(settings.max_connections)
        self._score = scoreboard.reader(settings.scoreboard)
        self._notifier = Notifier()
        self._state: tuple[str, ...] = ()
        self._starting: Deferred[None] = succeed(None)
        self._parts: _Parts | None = None

    def startService(self) -> None:
        super().startService()
        self._exit.watch_reactor()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._start_failed)

    async def _start(self) -> None:
        """
        Prepare everything, wait for the store, and serve.

        Everything that can fail, such as an option, a file or a socket, is prepared before
        this worker stands by: during a reload the supervisor then ends an old worker.
        """
        self._notifier = connect(self._settings, os.environ)
        heartbeat(
            self._notifier, self._reactor, self._current_work_done, lambda: self._state
        )
        parts = self._parts = self._prepare()
        # The objects that exist now live as long as the process, so the garbage collector
        # need not visit them.
        gc.freeze()
        parts.unready.start()
        await self._open_store(parts)
        parts.unready.stop()
        await parts.listeners.open()
        state = parts.committer.durable
        cursor = f"revision {state.revision}, position {state.position}"
        self._log.info("the cursor is at {cursor}", cursor=cursor)
        self._notify_state(READY, f"STATUS=serving since {cursor}")

    def _start_failed(self, failure: Failure) -> None:
        """
        End the process: otherwise it would keep the store's lock without serving.
        """
        error, reason = failure.value, failure.getErrorMessage()
        if isinstance(error, CancelledError):
            # The service stops.
            return
        if not isinstance(error, (CannotStart, StoreUnusable)):
            if not isinstance(error, OSError):
                # A bug, and the traceback says where.
                self._log.failure("the start failed", failure=failure)
                reason = f"{type(error).__name__}: {reason}"
            reason = f"cannot start: {reason}"
        self._exit_with(getattr(error, "exit_status", Status.CANNOT_START), reason)

    def _current_work_done(self) -> Deferred[None]:
        """
        Return a C{Deferred} that fires when the verification and the commit have ended.

        It fires at once if neither is in progress.  If one hangs, no heartbeat is sent.
        """
        if self._parts is None:
            return succeed(None)
        wait_for_commit = self._parts.committer.wait_for_commit
        return self._parts.progress.ended().addCallback(lambda _: wait_for_commit())

    def _notify_state(self, *state: str) -> None:
        """
        Notify the process that started this one of C{state}, now and with each heartbeat.
        """
        self._state = state
        self._notifier.notify(*state)

    def _prepare(self) -> _Parts:
        settings, reactor = self._settings, self._reactor
        allowed = max_connections(settings.max_connections)
        check_open_file_limit()
        if allowed < settings.max_connections:
            self._log.warn(
                "--max-connections {wanted}: the limit of open files allows {allowed};"
                " raise it with ulimit -n or LimitNOFILE=",
                wanted=settings.max_connections,
                allowed=allowed,
            )
            self._connections.limit = allowed
        if settings.scoreboard is not None:
            try:
                scoreboard.inherit(settings.scoreboard)
            except OSError as error:
                raise CannotStart(
                    f"--scoreboard {settings.scoreboard}: {error.strerror}"
                ) from error
        files = read_files(settings)
        files.warn_of_expiry(time.time())
        listening_places = places(reactor, settings.listen)
        progress = VerificationProgress(self._notifier.notify)

        def stand_by() -> None:
            # The store is made before C{unready}, which is defined below.
            unready.stand_by()

        scoreboard_fd = settings.scoreboard
        store = self._store_factory.make(
            StoreOptions(
                reactor=reactor,
                journal=settings.journal,
                verify=not settings.quick_check,
                progress=progress,
                create=not settings.no_create,
                claim=None if scoreboard_fd is None else StoreClaim(scoreboard_fd),
                on_standby=stand_by if settings.is_supervised else None,
            )
        )
        committer = self._make_committer(store)
        # A new connection can replace an idle one, but no stream.  So streams get at most
        # a quarter of the connections.
        max_streams = min(MAX_STREAMS, max(1, self._connections.limit // 4))
        events = Events(committer, reactor.callLater, max_streams, self._score)
        server = self._make_server(committer, store, files, events)
        listeners = Listeners(listening_places, server, event_loop(reactor), files.tls)
        unready = Unready(
            reactor,
            listeners,
            committer,
            self._store_factory,
            self._score,
            self._notify_state,
        )
        return _Parts(progress, committer, events, server, listeners, unready)

    def _make_committer(self, store: IStore) -> ICommitter:
        call_soon = event_loop(self._reactor).call_soon
        if ISharedStore.providedBy(store):
            from pexservice.commit.optimistic import (  # noqa: PLC0415 rarely used
                OptimisticCommitter,
            )

            return OptimisticCommitter(
                store, self._reactor, fatal=self._store_failed, call_soon=call_soon
            )
        return Committer(
            IExclusiveStore(store),
            self._reactor,
            synchronous=self._settings.synchronous_commit,
            fatal=self._store_failed,
            call_soon=call_soon,
        )

    async def _open_store(self, parts: _Parts) -> None:
        """
        Open the store.  Once the service has served, retry until the store can be opened.

        For a store on other machines, which may come back at any time, always retry.
        """
        keeps_trying = self._settings.is_supervised and not self._settings.first_start
        delay = MIN_OPEN_RETRY_SECONDS
        while True:
            try:
                await parts.committer.start()
            except StoreUnusable as error:
                away = isinstance(error, StoreUnavailable)
                is_damaged = error.exit_status == Status.DAMAGED
                if not away and (is_damaged or not keeps_trying):
                    raise
                parts.unready.store_failed_to_open(str(error))
            else:
                return
            finally:
                parts.progress.end()
            await deferLater(self._reactor, delay, lambda: None)
            delay = min(2 * delay, MAX_OPEN_RETRY_SECONDS)

    def _make_server(
        self, committer: ICommitter, store: IStore, files: Files, events: Events
    ) -> Server:
        settings = self._settings
        rate, clients = settings.rate_limit, Clients(settings.trusted_proxies)
        limit = None if rate is None else RateLimit(rate)
        hosts = HostPolicy(
            settings.allowed_hosts,
            own_name=gethostname(),
            needed=settings.token_file is None,
        )
        access = Access(files.tokens, settings.cors_origins)
        checker = RequestChecker(committer, access, clients, hosts=hosts, limit=limit)
        connections, requests = self._connections, RequestCounters()
        metrics = Metrics(
            committer,
            requests,
            connections,
            store,
            settings.scoreboard,
            certificate_expires=files.certificate_expires,
        )
        api = Api(
            committer,
            checker,
            events,
            table=POST_ONLY_TABLE if settings.post_only else DEFAULT_TABLE,
            later=self._reactor.callLater,
            scrape=metrics.response,
            score=self._score,
        )
        return Server(
            api.call_handler,
            checker,
            connections,
            requests,
            self._reactor,
            call_soon=event_loop(self._reactor).call_soon,
            log=self._access_log(),
        )

    def _access_log(self) -> AccessLog | None:
        name = self._settings.access_log
        if name is None:
            return None
        log = AccessLog(name)
        if not self._settings.is_supervised:
            # Below a supervisor, a SIGHUP starts new workers, which open the file again.
            signal.signal(signal.SIGHUP, lambda *_: log.reopen())
        return log

    def _store_failed(self, failure: Failure) -> None:
        """
        End the process: the state on disk is unknown, so the next process has to read it.
        """
        self._log.failure("the store failed", failure=failure)
        reason = failure.getErrorMessage()
        if failure.check(StoreDamaged):
            self._exit_with(Status.DAMAGED, reason)
            return
        self._exit_with(
            Status.STORE_FAILED, f"the store failed ({reason}), so this process ends"
        )

    def _exit_with(self, status: Status, reason: str) -> None:
        self._notifier.notify(f"STATUS={reason}")
        self._exit.exit_with(status, reason)

    def stopService(self) -> Deferred[None]:
        """
        Accept no more connections, respond to the requests, commit, and close the store.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._notify_state(STOPPING)
        self._starting.cancel()
        if self._parts is not None:
            await self._stop_parts(self._parts)
        self._notifier.close()

    async def _stop_parts(self, parts: _Parts) -> None:
        connections, committer = self._connections, parts.committer
        parts.unready.stop()
        parts.server.drain()
        parts.events.close()
        if parts.listeners.are_open and committer.step_refusal is None:
            for _ in range(DRAIN_STEPS):
                if await self._emptied(DRAIN_SECONDS / DRAIN_STEPS):
                    break
        await parts.listeners.close()
        # The reactor reads once more: requests may have arrived while this process waited
        # for the processor.
        await self._emptied(READ_AGAIN_SECONDS)
        connections.close_idle()
        if not await self._emptied(FIRST_REQUEST_SECONDS):
            connections.close_waiting()
        if not await self._emptied(LAST_RESPONSE_SECONDS):
            connections.abort()
        parts.server.stop()
        await committer.stop()

    async def _emptied(self, seconds: float) -> bool:
        """
        Wait until there are no connections, but no longer than C{seconds}.

        @return: whether there are none.
        """
        try:
            await self._connections.when_empty().addTimeout(seconds, self._reactor)
        except DeferredTimeout:
            return False
        return True
