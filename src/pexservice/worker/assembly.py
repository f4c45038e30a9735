"""
The parts of a worker, such as the store, the committer and the listeners.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
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
from pexservice.process.sd_notify import Notifier
from pexservice.process.supervisor_report import SupervisorReport, read_report
from pexservice.server.access_log import AccessLog
from pexservice.server.limits import Connections
from pexservice.server.reactor import event_loop
from pexservice.server.request_counters import RequestCounters
from pexservice.server.server import Server
from pexservice.settings.options import Settings, WorkerSettings
from pexservice.stores.claim import StoreClaim
from pexservice.stores.factory_interface import IStoreReactor, StoreOptions
from pexservice.stores.interface import IStore
from pexservice.stores.registry import store_factory
from pexservice.stores.shared_interface import ISharedStore
from pexservice.stores.verification import Verification, VerificationRecord
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
    notifier: Notifier,
    on_fatal_failure: Callable[[Failure], None],
) -> WorkerParts:
    """
    Make the parts of a worker.  The store is not opened yet, and no connection is accepted.

    @param notifier: sends messages to the supervisor or to systemd.
    @param on_fatal_failure: called with a failure that must end the process.
    @raise CannotStart: an option, a file or a socket cannot be used.
    """
    connections = _connections(settings.max_connections)
    files = read_files(settings)
    files.warn_of_expiry()
    endpoints = listen_endpoints(reactor, settings.listen)
    loop = event_loop(reactor)
    report_reader = partial(read_report, settings.scoreboard)
    claim, verification = _adopt_scoreboard(settings, report_reader)
    progress = VerificationProgress(notifier.notify)
    factory = store_factory(settings.store)
    store = factory.make(
        StoreOptions(
            reactor=reactor,
            journal=settings.journal,
            progress=progress.show,
            create=not settings.no_create,
            claim=claim,
            verification=verification,
        )
    )
    committer = _committer_class(settings, store)(
        store, reactor, on_fatal_failure=on_fatal_failure, call_soon=loop.call_soon
    )
    # At the limit of connections, a new connection replaces an idle one, but never a stream
    # of events.  So that streams cannot fill the limit, they get at most a quarter of it.
    max_streams = min(MAX_STREAMS, max(1, connections.limit // 4))
    events = Events(committer, reactor.callLater, max_streams, report_reader)
    checker = RequestChecker(
        committer,
        Access(files.tokens, settings.cors_origin),
        Clients(settings.trusted_proxy),
        # The check of the Host stops pages that use DNS rebinding.  Such a page has no
        # token.  So with a token file, it cannot move the cursor, and any Host is allowed.
        hosts=HostPolicy(
            settings.allowed_host if settings.token_file is None else [ANY_HOST],
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
        report_reader,
        certificate_expires=files.certificate_expires,
    )
    api = Api(
        committer,
        checker,
        events,
        table=POST_ONLY_TABLE if settings.post_only else DEFAULT_TABLE,
        call_later=reactor.callLater,
        metrics_response=metrics.response,
        read_report=report_reader,
    )
    server = Server(
        api.call_handler,
        checker,
        connections,
        requests,
        reactor,
        call_soon=loop.call_soon,
        log=_open_access_log(settings),
    )
    listeners = Listeners(endpoints, server, loop, files.tls)
    inactive_phase = InactivePhase(
        reactor, listeners, committer, factory, report_reader, notifier
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


def _adopt_scoreboard(
    settings: WorkerSettings, read_report: Callable[[], SupervisorReport | None]
) -> tuple[StoreClaim | None, Verification]:
    """
    Check the descriptor of the scoreboard, which is memory that the supervisor shares.

    @return: which store the workers may open, and whether to verify it.  If there is a
        supervisor, both are records in the scoreboard.
    """
    descriptor = settings.scoreboard
    if descriptor is None:
        return None, Verification()
    try:
        scoreboard.adopt(descriptor)
    except OSError as error:
        raise CannotStart(f"--scoreboard {descriptor}: {error.strerror}") from error
    verification = VerificationRecord(descriptor, read_report)
    if settings.quick_check:
        verification.assume_completed()
    return StoreClaim(descriptor), verification


def _committer_class(settings: Settings, store: IStore) -> Callable[..., ICommitter]:
    if ISharedStore.providedBy(store):
        from pexservice.commit import optimistic  # noqa: PLC0415 rarely used

        return optimistic.OptimisticCommitter
    return Committer if settings.synchronous_commit else AsynchronousCommitter


def _open_access_log(settings: WorkerSettings) -> AccessLog | None:
    if settings.access_log is None:
        return None
    try:
        log = AccessLog(settings.access_log)
    except OSError as error:
        raise cannot_use(f"the access log {settings.access_log}", error) from error
    if not settings.is_supervised:
        # With a supervisor, SIGHUP starts new workers, and they open the log again.
        signal.signal(signal.SIGHUP, lambda *_: log.reopen())
    return log
