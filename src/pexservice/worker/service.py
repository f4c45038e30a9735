"""
One worker, put together from plain values: store, committer, tree, listeners.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 the first URL needs it, when descriptors may be short
import gc
import os
import signal
from collections.abc import Callable
from socket import gethostname

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IListeningPort, IReactorCore
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.committer import Committer
from pexservice.commit.interface import ICommitter
from pexservice.metrics import Metrics
from pexservice.process import scoreboard
from pexservice.process.descriptors import check_limit, room_for
from pexservice.process.exit_status import CannotStart, ProcessExit, Status
from pexservice.process.listening import Place, places, shown, stop_listening
from pexservice.process.sd_notify import READY, STANDING_BY, STOPPING, Notifier
from pexservice.process.verification import VerificationProgress
from pexservice.server.access_log import AccessLog, sink_of
from pexservice.server.fast_path import FastPath
from pexservice.server.limits import Connections
from pexservice.server.site import PexSite
from pexservice.server.transport.tls import context, wrapped
from pexservice.settings.options import Settings
from pexservice.stores.interface import (
    IOwnStore,
    ISharedStore,
    IStore,
    IStoreReactor,
    StoreDamaged,
    StoreIncompatible,
    StoreOptions,
    StoreUnusable,
    Verification,
)
from pexservice.stores.registry import make_store
from pexservice.web.access import Access
from pexservice.web.api import Api
from pexservice.web.clients import Clients
from pexservice.web.dns_rebinding import HostPolicy
from pexservice.web.endpoints import POST_ONLY, TABLE
from pexservice.web.events import MOST_STREAMS, Events
from pexservice.web.performer import Performer
from pexservice.web.throttle import RateLimit
from pexservice.worker.files import check_files
from pexservice.worker.lifecycle import connect, heartbeat

#: How long a stopping worker goes on taking requests, each answered as its
#: connection's last.  A connection that is used is then closed by an answer and not
#: in the face of its next request.  Seconds, and in how many pieces: one of them may pass
#: while a commit blocks and no request is read.
FAREWELL = 0.3
FAREWELL_PIECES = 6

#: How long a stopping worker waits, without taking new connections, for the first request
#: of a connection that was taken already, and for the requests under way.  Seconds.
PATIENCE = 0.5
GRACE = 2

#: How long a worker whose store cannot be opened says so, before it ends and another
#: one tries.  Seconds.
EXCUSE = 5


class Reactor(IReactorCore, IStoreReactor):
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
        reactor: Reactor,
        process_exit: ProcessExit | None = None,
        make_store: Callable[[], IStore] | None = None,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._exit = process_exit or ProcessExit(
            reactor, terminal=settings.foreground and not settings.is_supervised
        )
        self._make_store = make_store or self._store
        self._connections = Connections(settings.max_connections)
        self._fast_path: FastPath | None = None
        self._events: Events | None = None
        self._ports: list[IListeningPort] = []
        self._committer: ICommitter | None = None
        self._notifier = Notifier()
        self._state: tuple[str, ...] = ()

    def startService(self) -> None:
        """
        Open the store, then listen.

        @raise CannotStart: a daemon, whose standard error is closed, could not start.
        """
        super().startService()
        self._exit.watch_reactor()
        Deferred.fromCoroutine(self._start()).addErrback(self._start_failed)
        if self._exit.reason is not None and not self._settings.foreground:
            raise CannotStart(self._exit.reason)

    async def _start(self) -> None:
        def stop() -> None:
            self._reactor.callFromThread(self._exit.stop)

        self._notifier = connect(self._settings, os.environ, stop)
        heartbeat(self._notifier, self._reactor, self._settled, lambda: self._state)
        await self._serve()

    def _start_failed(self, failure: Failure) -> None:
        """
        End the process: without serving, it would lock the store against other workers.
        """
        error, reason = failure.value, failure.getErrorMessage()
        if not isinstance(error, (CannotStart, StoreUnusable)):
            if not isinstance(error, OSError):
                # A bug, and the traceback says where.
                self._log.failure("the start failed", failure=failure)
                reason = f"{type(error).__name__}: {reason}"
            reason = f"cannot start: {reason}"
        self._exit_with(getattr(error, "exit_status", Status.CANNOT_START), reason)

    def _settled(self) -> Deferred[None]:
        return succeed(None) if self._committer is None else self._committer.settled()

    def _store(self) -> IStore:
        settings = self._settings
        quick, whole = Verification.QUICK, Verification.IN_CHILD
        return make_store(
            settings.store,
            StoreOptions(
                reactor=self._reactor,
                journal=settings.journal,
                verification=quick if settings.quick_check else whole,
                progress=VerificationProgress(self._notifier.notify),
                standing_by=self._stand_by if settings.is_supervised else None,
            ),
        )

    def _commits_to(self, store: IStore) -> ICommitter:
        if ISharedStore.providedBy(store):
            from pexservice.commit.optimistic import (  # noqa: PLC0415 rarely used
                OptimisticCommitter,
            )

            return OptimisticCommitter(store, self._reactor, fatal=self._store_failed)
        return Committer(
            IOwnStore(store),
            self._reactor,
            synchronous=self._settings.synchronous_commit,
            fatal=self._store_failed,
        )

    def _stand_by(self) -> None:
        self._log.info("standing by")
        self._say(STANDING_BY)

    async def _serve(self) -> None:
        settings = self._settings
        room = room_for(settings.max_connections)
        check_limit()
        if room < settings.max_connections:
            self._log.warn(
                "--max-connections {wanted}: the limit of open files has room for"
                " {room}; raise it with ulimit -n or LimitNOFILE=",
                wanted=settings.max_connections,
                room=room,
            )
            self._connections.limit = room
        if settings.scoreboard is not None:
            try:
                scoreboard.inherit(settings.scoreboard)
            except OSError as error:
                raise CannotStart(
                    f"--scoreboard {settings.scoreboard}: {error.strerror}"
                ) from error
        access = Access(check_files(settings), settings.cors_origins)
        store = self._make_store()
        committer = self._commits_to(store)
        site = self._site(committer, access, store)
        where = places(self._reactor, settings.listen)
        if getattr(self._reactor, "loop", None) is not None:
            # A standby may find these files replaced when it takes over.
            import pexservice.server.transport.listener  # noqa: F401, PLC0415 uvloop has to be there
        # All objects that are here now stay, so no collection need look at them again.
        gc.freeze()
        try:
            await committer.start()
        except (StoreDamaged, StoreIncompatible):
            raise
        except StoreUnusable as error:
            if not settings.is_supervised:
                raise
            committer.unusable(str(error))
            self._reactor.callLater(EXCUSE, self._start_failed, Failure())
        self._committer = committer
        for place in where:
            port = await self._listen(place, site)
            self._ports.append(port)
            self._log.info("listening on {address}", address=shown(port.getHost()))
        if committer.unread is not None:
            self._log.error("{reason}", reason=committer.unread)
            self._say(f"STATUS={committer.unread}")
            return
        state = committer.durable
        cursor = f"revision {state.revision}, position {state.position}"
        self._log.info("the cursor is at {cursor}", cursor=cursor)
        self._say(READY, f"STATUS=serving since {cursor}")

    def _site(self, committer: ICommitter, access: Access, store: IStore) -> PexSite:
        settings = self._settings
        later = self._reactor.callLater
        # A stream makes no room for others, so most connections are not for streams.
        most = min(MOST_STREAMS, max(1, self._connections.limit // 4))
        score = scoreboard.reader(settings.scoreboard)
        self._events = events = Events(committer, later, most, score)
        rate, clients = settings.rate_limit, Clients(settings.trusted_proxies)
        limit = None if rate is None else RateLimit(rate)
        hosts = HostPolicy(
            settings.allowed_hosts,
            own_name=gethostname(),
            needed=settings.token_file is None,
        )
        performer = Performer(committer, access, clients, hosts=hosts, limit=limit)
        self._fast_path = FastPath(
            performer, self._connections, self._reactor, log=self._access_log()
        )
        scrape = Metrics(committer, self._fast_path, store, settings.scoreboard).reply
        api = Api(
            committer,
            performer,
            events,
            table=POST_ONLY if settings.post_only else TABLE,
            later=later,
            scrape=scrape,
            last_reload=lambda: scoreboard.last_reload(score()),
        )
        return PexSite(api.resource(), self._fast_path, self._reactor)

    def _access_log(self) -> AccessLog | None:
        name = self._settings.access_log
        if name is None:
            return None
        log = AccessLog(sink_of(name))
        if not self._settings.is_supervised:
            # Below a supervisor, the workers that a SIGHUP starts open the file anew.
            signal.signal(signal.SIGHUP, lambda *_: log.reopen())
        return log

    async def _listen(self, place: Place, site: PexSite) -> IListeningPort:
        tls = self._settings.tls
        loop = getattr(self._reactor, "loop", None)
        if loop is not None:
            # uvloop is needed only where its reactor is.
            from pexservice.server.transport.listener import NativePort  # noqa: PLC0415 uvloop has to be there

            secure = None if tls is None else context(*tls)
            return NativePort(await place.listen(site), loop, site, secure)
        return await place.listen(site if tls is None else wrapped(site, *tls))

    def _say(self, *state: str) -> None:
        """
        Notify the worker's C{state}, now and with each sign of life.
        """
        self._state = state
        self._notifier.notify(*state)

    def _store_failed(self, failure: Failure) -> None:
        """
        End the process: nobody knows what the disk has, so the next process has to look.
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
        Take no new connections, answer the requests, commit, and close the store.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._say(STOPPING)
        connections, committer = self._connections, self._committer
        connections.closing = True
        if self._fast_path is not None:
            self._fast_path.cache.retire()
        if self._events is not None:
            self._events.close()
        if self._ports and committer is not None and committer.refusal is None:
            for _ in range(FAREWELL_PIECES):
                if await self._emptied(FAREWELL / FAREWELL_PIECES):
                    break
        ports, self._ports = self._ports, []
        await DeferredList([Deferred.fromCoroutine(stop_listening(port)) for port in ports])
        connections.close_resting()
        if not await self._emptied(PATIENCE):
            connections.close_idle()
        if not await self._emptied(GRACE):
            connections.abort()
        if self._fast_path is not None and self._fast_path.log is not None:
            self._fast_path.log.close()
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
