"""
One worker: it puts store, committer, API and listeners together, serves, and stops.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 the first URL needs it, when descriptors may be short
import gc
import os
import signal
import time
from collections.abc import Callable
from socket import gethostname

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IListeningPort, IReactorCore
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.committer import Committer
from pexservice.commit.interface import ICommitter
from pexservice.metrics import Metrics
from pexservice.process import scoreboard
from pexservice.process.exit_status import CannotStart, ProcessExit, Status
from pexservice.process.listening import (
    Place,
    check_open_file_limit,
    max_connections,
    places,
    shown,
    stop_listening,
)
from pexservice.process.scoreboard import StoreClaim
from pexservice.process.sd_notify import (
    NOT_READY,
    READY,
    STANDING_BY,
    STOPPING,
    Notifier,
)
from pexservice.process.timing import Periodic
from pexservice.server.access_log import AccessLog
from pexservice.server.limits import Connections
from pexservice.server.listener import Listener
from pexservice.server.reactor import event_loop
from pexservice.server.request_counters import RequestCounters
from pexservice.server.server import Server
from pexservice.settings.options import Settings
from pexservice.stores.interface import (
    IOwnStore,
    ISharedStore,
    IStore,
    IStoreReactor,
    StoreAway,
    StoreDamaged,
    StoreOptions,
    StoreUnusable,
)
from pexservice.stores.registry import store_factory
from pexservice.web.access import Access, HostPolicy
from pexservice.web.api import Api
from pexservice.web.clients import Clients, RateLimit
from pexservice.web.endpoints import POST_ONLY, TABLE
from pexservice.web.events import MAX_STREAMS, Events
from pexservice.web.performer import Performer
from pexservice.worker.files import Files, read_files
from pexservice.worker.lifecycle import VerificationProgress, connect, heartbeat

#: How long a stopping worker still accepts requests; each response is its connection's
#: last.  So a connection that is in use ends with a response, and no request is lost.  The
#: time passes in several steps: a commit may block the process for one of them.
DRAIN_SECONDS = 0.3
DRAIN_STEPS = 6

#: How long a stopping worker, which accepts no more connections, waits for the first
#: request of a new connection, and then for the requests in progress.
FIRST_REQUEST_SECONDS = 0.5
LAST_RESPONSE_SECONDS = 2

#: The delay before a store that could not be opened is tried again.
MIN_OPEN_RETRY_SECONDS = 0.5
MAX_OPEN_RETRY_SECONDS = 5.0

#: How often a worker that does not serve checks whether another one does.
CHECK_INTERVAL_SECONDS = 0.25

#: When no worker has served for this long, one that cannot serve responds with 503.  It is
#: longer than a takeover takes, and shorter than a client waits.
ALONE_SECONDS = 0.5

#: How long a standby waits for the lock while no worker of this service can have it.
FOREIGN_LOCK_SECONDS = 3.0


class WorkerReactor(IReactorCore, IStoreReactor):
    """
    The parts of a reactor that a worker needs.
    """


class Worker(Service):
    """
    The service of one worker, which answers the requests.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: WorkerReactor,
        process_exit: ProcessExit | None = None,
        make_store: Callable[[], IStore] | None = None,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._exit = process_exit or ProcessExit(
            reactor,
            terminal=settings.foreground and not settings.is_supervised,
            logs=not settings.is_supervised,
        )
        self._make_store = make_store or self._store
        self._connections = Connections(settings.max_connections)
        self._server: Server | None = None
        self._events: Events | None = None
        self._places: list[Place] = []
        self._adopt: Callable[[IListeningPort], IListeningPort] = lambda port: port
        self._ports: list[IListeningPort] = []
        self._committer: ICommitter | None = None
        self._notifier = Notifier()
        self._state: tuple[str, ...] = ()
        self._score = scoreboard.reader(settings.scoreboard)
        self._starting: Deferred[None] = succeed(None)
        # While the store is verified, its progress is the heartbeat.
        self._progress = VerificationProgress(self._notify)
        self._checking = Periodic(
            lambda: Deferred.fromCoroutine(self._respond_while_unready()), reactor
        )
        self._standing_by = False
        # Why this worker cannot serve, and since when no other one does.
        self._problem: str | None = None
        self._alone_since: float | None = None

    def startService(self) -> None:
        """
        Open the store, then listen.
        """
        super().startService()
        self._exit.watch_reactor()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._start_failed)

    async def _start(self) -> None:
        self._notifier = connect(self._settings, os.environ)
        heartbeat(self._notifier, self._reactor, self._settled, lambda: self._state)
        await self._serve()

    def _start_failed(self, failure: Failure) -> None:
        """
        End the process: without serving, it would lock the store against other workers.
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

    def _settled(self) -> Deferred[None]:
        """
        Return a C{Deferred} that fires when this worker is known not to hang.
        """
        if self._committer is None:
            return succeed(None)
        settled = self._committer.settled
        return self._progress.ended().addCallback(lambda _: settled())

    def _notify(self, *lines: str) -> None:
        self._notifier.notify(*lines)

    def _store(self) -> IStore:
        settings, board = self._settings, self._settings.scoreboard
        return store_factory(settings.store).make(
            StoreOptions(
                reactor=self._reactor,
                journal=settings.journal,
                verify=not settings.quick_check,
                progress=self._progress,
                create=not settings.no_create,
                claim=None if board is None else StoreClaim(board),
                standing_by=self._stand_by if settings.is_supervised else None,
            )
        )

    def _commits_to(self, store: IStore) -> ICommitter:
        call_soon = event_loop(self._reactor).call_soon
        if ISharedStore.providedBy(store):
            from pexservice.commit.optimistic import (  # noqa: PLC0415 rarely used
                OptimisticCommitter,
            )

            return OptimisticCommitter(
                store, self._reactor, fatal=self._store_failed, call_soon=call_soon
            )
        return Committer(
            IOwnStore(store),
            self._reactor,
            synchronous=self._settings.synchronous_commit,
            fatal=self._store_failed,
            call_soon=call_soon,
        )

    async def _serve(self) -> None:
        """
        Prepare everything, wait for the store, and serve.

        What can fail because of an option, a file or a socket fails before this worker
        stands by: the supervisor ends an old worker only when a new one could take over.
        """
        committer = self._prepare()
        self._checking.start(CHECK_INTERVAL_SECONDS)
        await self._open_store(committer)
        self._checking.stop()
        if not self._ports:
            await self._listen()
        for place in self._places:
            if (path := place.lost_file()) is not None:
                self._log.error(
                    "the file of the Unix socket {path} is gone, so no client can connect"
                    " there; restart the service to create it again",
                    path=path,
                )
        state = committer.durable
        cursor = f"revision {state.revision}, position {state.position}"
        self._log.info("the cursor is at {cursor}", cursor=cursor)
        self._say(READY, f"STATUS=serving since {cursor}")

    def _prepare(self) -> ICommitter:
        settings = self._settings
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
        self._places = places(self._reactor, settings.listen)
        store = self._make_store()
        self._committer = committer = self._commits_to(store)
        server = self._server = self._make_server(committer, store, files)
        loop = event_loop(self._reactor)
        self._adopt = lambda port: Listener(port, loop, server, files.tls)
        # The objects that exist now stay, so the garbage collector need not visit them.
        gc.freeze()
        return committer

    async def _open_store(self, committer: ICommitter) -> None:
        """
        Open the store.  Once the service has served, retry until it can be opened.

        A store on other machines may come back at any time, so it is always retried.
        """
        keeps_trying = self._settings.is_supervised and not self._settings.first_start
        delay = MIN_OPEN_RETRY_SECONDS
        while True:
            try:
                await committer.start()
            except StoreUnusable as error:
                is_temporary = error.exit_status == Status.CANNOT_START
                away = isinstance(error, StoreAway)
                if not away and not (is_temporary and keeps_trying):
                    raise
                self._cannot_serve(str(error))
            else:
                return
            finally:
                self._progress.end()
            self._standing_by = False
            await deferLater(self._reactor, delay, lambda: None)
            delay = min(2 * delay, MAX_OPEN_RETRY_SECONDS)

    def _stand_by(self) -> None:
        self._log.info("standby: waiting for the store's lock")
        self._standing_by, self._problem = True, None
        self._say(STANDING_BY)

    def _cannot_serve(self, problem: str) -> None:
        """
        Report C{problem}.  While no other worker serves, clients get it with a 503.
        """
        if problem != self._problem:
            self._log.error("cannot serve: {problem}; retrying", problem=problem)
        self._problem = problem
        if self._ports:
            self._refuse_requests(problem)
        self._say(f"STATUS={problem}", NOT_READY)

    def _refuse_requests(self, problem: str) -> None:
        if self._committer is not None:
            self._committer.refuse_all(problem)

    async def _respond_while_unready(self) -> None:
        """
        Refuse requests while this worker cannot serve and no other one does.
        """
        score, now = self._score(), self._reactor.seconds()
        if score is not None and score.serving:
            self._alone_since = None
            if self._ports:
                await self._stop_listening()
            if self._standing_by and self._problem is not None:
                self._stand_by()
            return
        if self._alone_since is None:
            self._alone_since = now
        alone_seconds = now - self._alone_since
        if (
            self._standing_by
            and self._problem is None
            and alone_seconds >= FOREIGN_LOCK_SECONDS
            and (score is not None and score.possible_owners == 0)
        ):
            store = store_factory(self._settings.store)
            self._cannot_serve(
                f"{store.name} is in use by {store.owner()}, which is no worker of this"
                " service"
            )
        if self._problem is not None and alone_seconds >= ALONE_SECONDS and not self._ports:
            self._refuse_requests(self._problem)
            await self._listen()

    def _make_server(self, committer: ICommitter, store: IStore, files: Files) -> Server:
        settings = self._settings
        later = self._reactor.callLater
        # A stream is not closed for another connection, so streams are only a quarter.
        max_streams = min(MAX_STREAMS, max(1, self._connections.limit // 4))
        self._events = events = Events(committer, later, max_streams, self._score)
        rate, clients = settings.rate_limit, Clients(settings.trusted_proxies)
        limit = None if rate is None else RateLimit(rate)
        hosts = HostPolicy(
            settings.allowed_hosts,
            own_name=gethostname(),
            needed=settings.token_file is None,
        )
        access = Access(files.tokens, settings.cors_origins)
        performer = Performer(committer, access, clients, hosts=hosts, limit=limit)
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
            performer,
            events,
            table=POST_ONLY if settings.post_only else TABLE,
            later=later,
            scrape=metrics.response,
            score=self._score,
        )
        return Server(
            api.call_handler,
            performer,
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

    async def _listen(self) -> None:
        if self._server is not None:
            self._server.start()
        for place in self._places:
            # Twisted opens the port, and never accepts from it.
            port = self._adopt(await place.listen(Factory()))
            self._ports.append(port)
            self._log.info("listening on {address}", address=shown(port.getHost()))

    async def _stop_listening(self) -> None:
        ports, self._ports = self._ports, []
        await DeferredList([Deferred.fromCoroutine(stop_listening(port)) for port in ports])

    def _say(self, *state: str) -> None:
        """
        Notify the worker's C{state}, now and with each heartbeat.
        """
        self._state = state
        self._notifier.notify(*state)

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
        self._say(STOPPING)
        self._checking.stop()
        self._starting.cancel()
        connections, committer = self._connections, self._committer
        if self._server is not None:
            self._server.drain()
        if self._events is not None:
            self._events.close()
        if self._ports and committer is not None and committer.refusal is None:
            for _ in range(DRAIN_STEPS):
                if await self._emptied(DRAIN_SECONDS / DRAIN_STEPS):
                    break
        await self._stop_listening()
        connections.close_idle()
        if not await self._emptied(FIRST_REQUEST_SECONDS):
            connections.close_waiting()
        if not await self._emptied(LAST_RESPONSE_SECONDS):
            connections.abort()
        if self._server is not None:
            self._server.stop()
        if committer is not None:
            await committer.stop()
        self._notifier.close()

    async def _emptied(self, seconds: float) -> bool:
        """
        Wait until there are no connections, but no longer than C{seconds}.

        @return: whether there are none.
        """
        try:
            await self._connections.emptied().addTimeout(seconds, self._reactor)
        except DeferredTimeout:
            return False
        return True
