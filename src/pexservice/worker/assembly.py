"""
The parts of a worker: store, committer, API and listeners, and how they are connected.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from socket import gethostname

from attrs import frozen
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.asynchronous import AsynchronousCommitter
from pexservice.commit.committer import Committer
from pexservice.commit.interface import ICommitter
from pexservice.metrics import Metrics
from pexservice.process import scoreboard
from pexservice.process.exit_status import CannotStart, cannot_use
from pexservice.process.listening import affordable_connections, listen_endpoints
from pexservice.process.supervisor_report import SupervisorReport, report_reader
from pexservice.server.access_log import AccessLog
from pexservice.server.limits import Connections
from pexservice.server.reactor import event_loop
from pexservice.server.request_counters import RequestCounters
from pexservice.server.server import Server
from pexservice.settings.options import Settings, WorkerSettings
from pexservice.stores.claim import StoreClaim
from pexservice.stores.factory_interface import IStoreReactor, StoreOptions
from pexservice.stores.interface import ISharedStore, IStore
from pexservice.stores.registry import store_factory
from pexservice.stores.verification import VerificationRecord
from pexservice.web.access import ANY_HOST, Access, HostPolicy
from pexservice.web.api import Api
from pexservice.web.clients import Clients, RateLimit
from pexservice.web.endpoints import DEFAULT_TABLE, POST_ONLY_TABLE
from pexservice.web.events import MAX_STREAMS, Events
from pexservice.web.operations import RequestChecker
from pexservice.worker.files import read_files
from pexservice.worker.inactive_phase import InactivePhase
from pexservice.worker.listeners import Listeners
from pexservice.worker.messages import VerificationProgress

_log = Logger()


class WorkerReactor(IReactorCore, IStoreReactor):
    """
    The parts of a reactor that a worker needs.
    """


@frozen
class WorkerParts:
    verification_progress: VerificationProgress
    committer: ICommitter
    events: Events
    server: Server
    listeners: Listeners
    inactive_phase: InactivePhase


def assemble(
    settings: WorkerSettings,
    reactor: WorkerReactor,
    *,
    notify: Callable[..., object],
    notify_state: Callable[..., object],
    on_fatal_failure: Callable[[Failure], None],
) -> WorkerParts:
    """
    Make the parts of a worker.  The store is not opened yet, and no connection is accepted.

    @param notify: sends its arguments, one line each, to the supervisor or to systemd.
    @param notify_state: does the same, and repeats the latest lines with each heartbeat.
    @param on_fatal_failure: called with a failure that must end the process.
    @raise CannotStart: an option, a file or a socket cannot be used.
    """
    connections = _connections(settings.max_connections)
    files = read_files(settings)
    files.warn_of_expiry(time.time())
    endpoints = listen_endpoints(reactor, settings.listen)
    loop = event_loop(reactor)
    read_report = report_reader(settings.scoreboard)
    progress = VerificationProgress(notify)
    factory = store_factory(settings.store)
    store = factory.make(_store_options(settings, reactor, read_report, progress))
    committer = _committer_class(settings, store)(
        store, reactor, on_fatal_failure=on_fatal_failure, call_soon=loop.call_soon
    )
    # A new connection can replace an idle connection, but not a stream of events.  So
    # streams get at most a quarter of the connections.
    max_streams = min(MAX_STREAMS, max(1, connections.limit // 4))
    events = Events(committer, reactor.callLater, max_streams, read_report)
    checker = RequestChecker(
        committer,
        Access(files.tokens, settings.cors_origins),
        Clients(settings.trusted_proxies),
        # The check of the Host stops pages that use DNS rebinding.  With a token file, no
        # such page can move the cursor, so every Host is allowed.
        hosts=HostPolicy(
            settings.allowed_hosts if settings.token_file is None else [ANY_HOST],
            own_name=gethostname(),
        ),
        limit=None if settings.rate_limit is None else RateLimit(settings.rate_limit),
    )
    requests = RequestCounters()
    metrics = Metrics(
        committer,
        requests,
        connections,
        store,
        read_report,
        certificate_expires=files.certificate_expires,
    )
    api = Api(
        committer,
        checker,
        events,
        table=POST_ONLY_TABLE if settings.post_only else DEFAULT_TABLE,
        call_later=reactor.callLater,
        metrics_response=metrics.response,
        read_report=read_report,
    )
    server = Server(
        api.call_handler,
        checker,
        connections,
        requests,
        reactor,
        call_soon=loop.call_soon,
        log=_access_log(settings),
    )
    listeners = Listeners(endpoints, server, loop, files.tls)
    inactive_phase = InactivePhase(
        reactor, listeners, committer, factory, read_report, notify_state
    )
    return WorkerParts(progress, committer, events, server, listeners, inactive_phase)


def _connections(wanted: int) -> Connections:
    allowed = affordable_connections(wanted)
    if allowed < wanted:
        _log.warn(
            "--max-connections {wanted}: the limit of open files allows {allowed};"
            " raise it with ulimit -n or LimitNOFILE=",
            wanted=wanted,
            allowed=allowed,
        )
    return Connections(allowed)


def _store_options(
    settings: WorkerSettings,
    reactor: WorkerReactor,
    read_report: Callable[[], SupervisorReport | None],
    progress: VerificationProgress,
) -> StoreOptions:
    board = settings.scoreboard
    claim = verification = None
    if board is not None:
        try:
            scoreboard.adopt(board)
        except OSError as error:
            raise CannotStart(f"--scoreboard {board}: {error.strerror}") from error
        claim = StoreClaim(board)
        verification = VerificationRecord(board, read_report)
        if settings.quick_check:
            verification.assume_completed()
    return StoreOptions(
        reactor=reactor,
        journal=settings.journal,
        progress=progress.show,
        create=not settings.no_create,
        claim=claim,
        verification=verification,
    )


def _committer_class(settings: Settings, store: IStore) -> Callable[..., ICommitter]:
    if ISharedStore.providedBy(store):
        from pexservice.commit import optimistic  # noqa: PLC0415 rarely used

        return optimistic.OptimisticCommitter
    return Committer if settings.synchronous_commit else AsynchronousCommitter


def _access_log(settings: WorkerSettings) -> AccessLog | None:
    if settings.access_log is None:
        return None
    try:
        log = AccessLog(settings.access_log)
    except OSError as error:
        raise cannot_use(f"the access log {settings.access_log}", error) from error
    if not settings.is_supervised:
        # Under a supervisor, a SIGHUP starts new workers, which open the file again.
        signal.signal(signal.SIGHUP, lambda *_: log.reopen())
    return log
