"""
One worker, put together from plain values: store, committer, tree, listeners.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from twisted.application.service import Service
from twisted.internet import endpoints
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorCore,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.committer import Committer
from pexservice.leaving import CannotStart, Leaving, Status
from pexservice.server.connections import Connections
from pexservice.server.site import OWN_LOG, PexSite
from pexservice.stores.directory import Directory
from pexservice.stores.handover import Handover, placement_for_this_machine
from pexservice.stores.interface import IStore, StoreDamaged, StoreUnusable
from pexservice.stores.lmdb import LmdbStore
from pexservice.web.access import Access, BadTokens, read_tokens
from pexservice.web.api import Api

#: How long a stopping worker waits for clients to take their last answers.  Seconds.
GRACE = 5


class Reactor(IReactorCore, IReactorTime, IReactorFromThreads):
    """
    What a worker needs of one.
    """


@frozen(kw_only=True)
class Settings:
    """
    What a worker is told on the command line; see L{pexservice.options}.

    @ivar listen: endpoint descriptions.
    @ivar store: the directory of an LMDB store.
    @ivar foreground: whether who started it sees its standard error and its exit
        status.
    """

    listen: tuple[str, ...] = ("tcp:8081:interface=127.0.0.1",)
    store: str = "pexservice-data"
    synchronous_commit: bool = True
    journal: int = 100_000
    token_file: str | None = None
    cors_origins: tuple[str, ...] = ()
    access_log: str | None = None
    max_connections: int = 10_000
    foreground: bool = True


class Worker(Service):
    """
    The service that serves.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Reactor,
        leaving: Leaving | None = None,
        make_store: Callable[[Settings, Reactor], IStore] | None = None,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._leaving = Leaving(reactor) if leaving is None else leaving
        self._make_store = make_store or lmdb_store
        self._committer: Committer | None = None
        self._connections = Connections(settings.max_connections)
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:
        """
        Open the store, then listen.

        @raise CannotStart: for who does not see standard error.
        """
        super().startService()
        started = Deferred.fromCoroutine(self._start())
        failures: list[Failure] = []
        started.addErrback(failures.append)
        if failures:
            self._fail_to_start(failures[0])
        else:
            # A store that is not here and now, or none was awaited.
            started.addErrback(self._fail_to_start)

    async def _start(self) -> None:
        settings = self._settings
        _check_writable(settings.access_log)
        tokens = None if settings.token_file is None else read_tokens(settings.token_file)
        access = Access(tokens, settings.cors_origins)
        self._committer = committer = Committer(
            self._make_store(settings, self._reactor),
            self._reactor,
            synchronous=settings.synchronous_commit,
            fatal=self._store_failed,
        )
        await committer.start()
        site = PexSite(
            Api(committer, access).resource(),
            self._connections,
            access_log=settings.access_log,
            reactor=self._reactor,
        )
        for description in settings.listen:
            port = await self._listen(description, site)
            self._ports.append(port)
            self._log.info("listening on {address}", address=_shown(port.getHost()))
        self._log.info(
            "the cursor is at revision {state.revision}, position {state.position}",
            state=committer.durable,
        )

    async def _listen(self, description: str, site: PexSite) -> IListeningPort:
        try:
            endpoint = endpoints.serverFromString(self._reactor, description)
            port: IListeningPort = await endpoint.listen(site)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            raise CannotStart(f"cannot listen on {description}: {reason}") from error
        except (OSError, ValueError) as error:
            raise CannotStart(f"cannot listen on {description}: {error}") from error
        return port

    def _fail_to_start(self, failure: Failure) -> None:
        if not failure.check(CannotStart, StoreUnusable, BadTokens):
            # A bug, and the traceback is what there is to say.
            failure.raiseException()
        reason = failure.getErrorMessage()
        if not self._settings.foreground and not self._reactor.running:
            raise CannotStart(reason) from failure.value
        damaged = isinstance(failure.value, StoreDamaged)
        self._leaving.leave(Status.DAMAGED if damaged else Status.CANNOT_START, reason)

    def _store_failed(self, failure: Failure) -> None:
        """
        Nobody knows what the disk has, so the next process has to look.
        """
        self._log.failure("the store failed", failure=failure)
        self._leaving.leave(
            Status.STORE_FAILED,
            f"the store failed ({failure.getErrorMessage()}), so this process ends",
        )

    def stopService(self) -> Deferred[None]:
        """
        Take no new connections, answer what was asked, commit, close the store.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ports, self._ports = self._ports, []
        await DeferredList([_stopped(port) for port in ports])
        if self._committer is None:
            return
        closed = self._connections.close()
        await self._committer.drain()
        deadline = self._reactor.callLater(GRACE, self._connections.abort)
        await closed
        if deadline.active():
            deadline.cancel()
        await self._committer.stop()


def lmdb_store(settings: Settings, reactor: Reactor) -> IStore:
    """
    The store that C{settings} name.
    """
    return LmdbStore(
        Directory(settings.store),
        Handover(reactor, placement_for_this_machine()),
        journal=settings.journal,
    )


def _check_writable(access_log: str | None) -> None:
    """
    @raise CannotStart: the access log cannot be written.
    """
    if access_log is not None and access_log != OWN_LOG:
        try:
            with Path(access_log).open("a"):
                pass
        except OSError as error:
            raise CannotStart(f"the access log {access_log}: {error.strerror}") from error


def _shown(address: IAddress) -> str:
    """
    C{address} as people write it.
    """
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    return str(address)


def _stopped(port: IListeningPort) -> Deferred[None]:
    return Deferred.fromCoroutine(_stop_listening(port))


async def _stop_listening(port: IListeningPort) -> None:
    stopped = port.stopListening()
    if stopped is not None:
        await stopped
