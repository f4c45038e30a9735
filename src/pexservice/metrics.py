"""
C{/metrics}: the counters of all packages, as Prometheus reads them.

Nothing is counted here.  The packages keep plain numbers on the way of a request, since a
counter of prometheus_client takes a lock for an addition and a look-up for its labels;
one collector reads these numbers at a request for C{/metrics}, and prometheus_client
writes the text.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TypeVar

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

import twisted
from pexservice.commit.counters import Histogram
from pexservice.commit.interface import ICommitter
from pexservice.process import scoreboard
from pexservice.process.scoreboard import Reload, Score
from pexservice.server.limits import Connections
from pexservice.server.request_counters import RequestCounters
from pexservice.stores.interface import IOnDisk, ISharedStore, IStore
from pexservice.web.responses import Response

_Labelled = TypeVar("_Labelled", CounterMetricFamily, GaugeMetricFamily)


def _labelled(
    make: type[_Labelled],
    name: str,
    documentation: str,
    labels: Sequence[str],
    samples: Iterable[tuple[Sequence[str], float]],
) -> _Labelled:
    """
    Return a metric that has a value for each of several sets of labels.
    """
    metric = make(name, documentation, labels=labels)
    for values, number in samples:
        metric.add_metric(values, number)
    return metric


def _histogram(name: str, documentation: str, counted: Histogram) -> Metric:
    buckets = [(floatToGoString(bound), count) for bound, count in counted.cumulative()]
    return HistogramMetricFamily(name, documentation, buckets, counted.total)


class Metrics(Collector):
    """
    The collector of the metrics of one worker.
    """

    def __init__(
        self,
        committer: ICommitter,
        requests: RequestCounters,
        connections: Connections,
        store: IStore | None = None,
        supervisor: int | None = None,
        *,
        certificate_expires: float | None = None,
    ) -> None:
        """
        Collect from the parts of a worker.

        @param supervisor: the file descriptor of the supervisor's scoreboard.
        @param certificate_expires: when the TLS certificate ends, in seconds since the
            epoch.
        """
        self._committer = committer
        self._request_counters = requests
        self._open_connections = connections
        self._on_disk: IOnDisk | None = IOnDisk(store, None)
        self._shared: ISharedStore | None = ISharedStore(store, None)
        self._supervisor = supervisor
        self._certificate_expires = certificate_expires
        self._versions = (
            version("pexservice"),
            platform.python_version(),
            twisted.__version__,
        )
        # A registry of our own: prometheus_client's has the metrics that it finds
        # interesting.
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def response(self, accept: Sequence[bytes] | None) -> Response:
        """
        Return the answer to a request for C{/metrics}.

        @param accept: the request's C{Accept} values, if it had any.
        """
        encode, kind = _encoder(b",".join(accept or ()).decode("latin-1"))
        headers = (
            (b"Content-Type", kind.encode("latin-1")),
            (b"Cache-Control", b"no-store"),
            (b"Vary", b"Accept"),
        )
        return Response(200, headers, encode(self._registry))

    def collect(self) -> Iterator[Metric]:
        """
        Yield all metrics but C{process_*}, which prometheus_client has.
        """
        yield _labelled(
            GaugeMetricFamily,
            "pexservice_build_info",
            "Always 1; the versions are in the labels.",
            ("version", "python", "twisted"),
            [(self._versions, 1)],
        )
        yield from self._cursor()
        yield from self._commits()
        yield from self._requests()
        yield from self._connections()
        if self._certificate_expires is not None:
            yield GaugeMetricFamily(
                "pexservice_tls_certificate_expiry_timestamp_seconds",
                "When the certificate of --tls-certificate ends, in seconds since 1970.",
                self._certificate_expires,
            )
        if self._on_disk is not None:
            yield from _store(self._on_disk)
        if self._shared is not None:
            yield from _shared_store(self._shared)
        if self._supervisor is not None:
            score = scoreboard.read(self._supervisor)
            if score is not None:
                yield from _keep_alive(score)

    def _cursor(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "pexservice_ready",
            "Whether a step would be taken, as /readyz says it.",
            self._committer.refusal is None,
        )
        if self._committer.unread is not None:
            return
        state = self._committer.durable
        yield GaugeMetricFamily(
            "pexservice_revision",
            "The revision on disk: transitions since the store was made.",
            state.revision,
        )
        yield GaugeMetricFamily(
            "pexservice_position", "The position on disk.", state.position
        )
        yield GaugeMetricFamily(
            "pexservice_position_digits",
            "Decimal digits of the value there.",
            state.term.size,
        )

    def _commits(self) -> Iterator[Metric]:
        counts = self._committer.counts
        yield _labelled(
            CounterMetricFamily,
            "pexservice_transitions_total",
            "Transitions that were asked for, by what came of them.",
            ("transition", "outcome"),
            [((kind.word, outcome), n) for kind, outcome, n in counts.transitions()],
        )
        yield _histogram(
            "pexservice_commit_duration_seconds",
            "Time that a commit took, with the way to its thread and back if it has one.",
            counts.durations,
        )
        yield _histogram(
            "pexservice_commit_batch_size",
            "Transitions that shared a commit.",
            counts.sizes,
        )

    def _requests(self) -> Iterator[Metric]:
        requests = self._request_counters
        yield _labelled(
            CounterMetricFamily,
            "pexservice_http_requests_total",
            "Requests that were answered.",
            ("endpoint", "method", "status"),
            [
                ((endpoint, method, str(status)), n)
                for endpoint, method, status, n in requests.responses()
            ],
        )
        yield CounterMetricFamily(
            "pexservice_memo_hits_total",
            "Requests whose meaning was known, so that no handler was asked.",
            requests.planned(),
        )
        yield CounterMetricFamily(
            "pexservice_memo_misses_total",
            "Requests that a handler was asked for, or that were refused before.",
            requests.asked,
        )

    def _connections(self) -> Iterator[Metric]:
        connections = self._open_connections
        yield GaugeMetricFamily(
            "pexservice_connections", "Connections that are open.", len(connections)
        )
        yield GaugeMetricFamily(
            "pexservice_connections_limit",
            "Connections that may be open.",
            connections.limit,
        )
        yield CounterMetricFamily(
            "pexservice_connections_accepted_total",
            "Connections that were taken.",
            connections.accepted,
        )
        yield CounterMetricFamily(
            "pexservice_connections_refused_total",
            "Connections that were not, because all others were busy.",
            connections.refused,
        )
        yield _labelled(
            CounterMetricFamily,
            "pexservice_connections_closed_total",
            "Connections that the service closed: idle, slow to send, stalled in taking"
            " answers, displaced by a new one, or flooding it with what is no request.",
            ("reason",),
            [((reason,), n) for reason, n in connections.closed.items()],
        )


def _store(on_disk: IOnDisk) -> Iterator[Metric]:
    space = on_disk.space()
    if space is not None:
        yield GaugeMetricFamily(
            "pexservice_store_used_bytes",
            "Of the store's file, pages that are free again included.",
            space.used,
        )
        yield GaugeMetricFamily(
            "pexservice_store_limit_bytes",
            "What the store's file may grow to.",
            space.limit,
        )
        yield GaugeMetricFamily(
            "pexservice_store_filesystem_free_bytes",
            "Free for the service on the store's file system.",
            space.free,
        )
        yield GaugeMetricFamily(
            "pexservice_store_filesystem_size_bytes",
            "Of the store's file system.",
            space.size,
        )
    snapshot = on_disk.oldest_snapshot()
    if snapshot is not None:
        yield _labelled(
            GaugeMetricFamily,
            "pexservice_store_oldest_snapshot_commits",
            "Commits since the oldest state of the store that another process reads; no"
            " page freed since is used again.",
            ("pid",),
            [((str(snapshot.pid),), snapshot.commits)],
        )


def _shared_store(store: ISharedStore) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "pexservice_cursor_went_back_total",
        "How often the cursor was found at an earlier revision than before: the store was"
        " restored from a snapshot, or emptied.",
        store.went_back,
    )
    yield SummaryMetricFamily(
        "pexservice_turn_wait_seconds",
        "Time that batches waited for the turns of other nodes.",
        store.turns,
        store.turn_seconds,
    )
    if store.certificate_expires is not None:
        yield GaugeMetricFamily(
            "pexservice_store_certificate_expiry_timestamp_seconds",
            "When the client certificate for the store ends, in seconds since the epoch.",
            store.certificate_expires,
        )


def _keep_alive(score: Score) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "pexservice_failovers_total",
        "How often the worker that served ended unasked, since the supervisor started.",
        score.failovers,
    )
    yield _labelled(
        CounterMetricFamily,
        "pexservice_worker_restarts_total",
        "Workers that ended and were replaced, since the supervisor started.",
        ("reason",),
        [((reason,), n) for reason, n in score.restarts.items()],
    )
    yield CounterMetricFamily(
        "pexservice_reloads_total",
        "Replacements of all workers that began, since the supervisor started.",
        score.reloads,
    )
    yield _labelled(
        GaugeMetricFamily,
        "pexservice_last_reload",
        "1 for what came of the last replacement of all workers, else 0.",
        ("outcome",),
        [
            ((outcome.name.lower(),), score.reload is outcome)
            for outcome in (Reload.UNDER_WAY, Reload.SUCCEEDED, Reload.FAILED)
        ],
    )
    if score.problem:
        yield _labelled(
            GaugeMetricFamily,
            "pexservice_problem",
            "1 while no worker serves, with the reason; absent while one serves.",
            ("reason",),
            [((score.problem,), 1)],
        )
    if score.restart_pending:
        yield _labelled(
            GaugeMetricFamily,
            "pexservice_restart_pending",
            "1 for each option whose change takes effect with a restart.",
            ("option",),
            [((option,), 1) for option in score.restart_pending],
        )
    yield GaugeMetricFamily(
        "pexservice_standby_workers", "Workers that stand by.", score.standing_by
    )
    yield GaugeMetricFamily(
        "pexservice_standby_workers_wanted",
        "Workers that should, by --standby.",
        score.standby,
    )


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:
        # choose_encoder compares whatever a client calls a version with a number.
        return choose_encoder("")
