"""
The response to C{/metrics}: the counters of all packages, for Prometheus.

The packages count with plain numbers.  A counter of prometheus_client would be slower: it
acquires a lock for each addition, and looks up its labels.  When a client requests
C{/metrics}, the collector in this module reads the plain numbers, and prometheus_client
writes the text.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, cast

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
from pexservice.process.supervisor_report import Reload, SupervisorReport
from pexservice.server.limits import Connections
from pexservice.server.request_counters import RequestCounters
from pexservice.stores.interface import IExclusiveStore, IStore
from pexservice.stores.shared_interface import ISharedStore
from pexservice.web.responses import Response

#: A number for each set of label values.
Samples = Iterable[tuple[Sequence[str], float]]


def _metric(kind: Any, name: str, text: str, value: float | Samples, *labels: str) -> Any:
    """
    Return a metric.  C{value} is one number without C{labels}, and L{Samples} with them.
    """
    if not labels:
        return kind(name, text, value)
    metric = kind(name, text, labels=labels)
    for label_values, number in cast(Samples, value):
        metric.add_metric(label_values, number)
    return metric


_gauge = partial(_metric, GaugeMetricFamily)
_counter = partial(_metric, CounterMetricFamily)


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
        store: IStore,
        read_report: Callable[[], SupervisorReport | None],
        *,
        certificate_expires: float | None = None,
    ) -> None:
        """
        Collect from the parts of a worker.

        @param read_report: reads the supervisor's report; returns C{None} if there is
            none.
        @param certificate_expires: when the TLS certificate expires, in seconds since the
            epoch.
        """
        self._committer = committer
        self._request_counters = requests
        self._open_connections = connections
        self._exclusive: IExclusiveStore | None = IExclusiveStore(store, None)
        self._shared: ISharedStore | None = ISharedStore(store, None)
        self._read_report = read_report
        self._certificate_expires = certificate_expires
        self._versions = (
            version("pexservice"),
            platform.python_version(),
            twisted.__version__,
        )
        # The default registry of prometheus_client would add metrics of Python itself.
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def response(self, accept: Sequence[bytes] | None) -> Response:
        """
        Return the response to a request for C{/metrics}.

        @param accept: the values of the request's C{Accept}, if there are any.
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
        Yield all metrics except C{process_*}, which prometheus_client adds.
        """
        yield _gauge(
            "pexservice_build_info",
            "Always 1; the versions are in the labels.",
            [(self._versions, 1)],
            *("version", "python", "twisted"),
        )
        yield from self._cursor()
        yield from self._requests()
        if self._certificate_expires is not None:
            yield _gauge(
                "pexservice_tls_certificate_expiry_timestamp_seconds",
                "When the certificate of --tls-certificate expires, in seconds since 1970.",
                self._certificate_expires,
            )
        if self._exclusive is not None:
            yield from _exclusive_store(self._exclusive)
        if self._shared is not None:
            yield from _shared_store(self._shared)
        report = self._read_report()
        if report is not None:
            yield from _supervisor(report)

    def _cursor(self) -> Iterator[Metric]:
        committer = self._committer
        yield _gauge(
            "pexservice_ready",
            "1 if a step would be accepted, as /readyz reports it; else 0.",
            committer.step_refusal is None,
        )
        if committer.read_refusal is None:
            state = committer.durable
            yield _gauge(
                "pexservice_revision",
                "The durable revision: the number of steps since the store was created.",
                state.revision,
            )
            yield _gauge("pexservice_position", "The durable position.", state.position)
            yield _gauge(
                "pexservice_position_digits",
                "The number of decimal digits of the value at the durable position.",
                state.term.size,
            )
        counts = committer.counts
        yield _counter(
            "pexservice_transitions_total",
            "Requested transitions, by outcome.",
            [((kind.word, outcome), n) for kind, outcome, n in counts.transitions()],
            *("transition", "outcome"),
        )
        yield _histogram(
            "pexservice_commit_duration_seconds",
            "Duration of a commit, including the switch to its thread and back, if it has"
            " one.",
            counts.durations,
        )
        yield _histogram(
            "pexservice_commit_batch_size",
            "The number of transitions that shared a commit.",
            counts.sizes,
        )

    def _requests(self) -> Iterator[Metric]:
        requests, connections = self._request_counters, self._open_connections
        yield _counter(
            "pexservice_http_requests_total",
            "Requests that got a response.",
            [
                ((path, method, str(status)), n)
                for path, method, status, n in requests.responses()
            ],
            *("endpoint", "method", "status"),
        )
        yield _counter(
            "pexservice_memo_hits_total",
            "Requests whose meaning was known, so that no handler was called.",
            requests.with_plan(),
        )
        yield _counter(
            "pexservice_memo_misses_total",
            "Requests for which a handler was called, or that were refused before that.",
            requests.without_plan,
        )
        yield _gauge("pexservice_connections", "Open connections.", len(connections))
        yield _gauge(
            "pexservice_connections_limit",
            "The maximum number of open connections.",
            connections.limit,
        )
        yield _counter(
            "pexservice_connections_accepted_total",
            "Connections that were accepted.",
            connections.accepted,
        )
        yield _counter(
            "pexservice_connections_refused_total",
            "Connections that were refused, because all others were busy.",
            connections.refused,
        )
        yield _counter(
            "pexservice_connections_closed_total",
            "Connections that the service closed: idle, slow to send, stalled in receiving"
            " responses, displaced by a new one, or flooding it with bytes that are no"
            " request.",
            _by_name(connections.closed),
            "reason",
        )


def _exclusive_store(store: IExclusiveStore) -> Iterator[Metric]:
    space = store.space()
    if space is not None:
        yield _gauge(
            "pexservice_store_used_bytes",
            "Used bytes of the store's file, including pages that are free again.",
            space.used,
        )
        yield _gauge(
            "pexservice_store_limit_bytes",
            "The maximum size of the store's file.",
            space.limit,
        )
        yield _gauge(
            "pexservice_store_filesystem_free_bytes",
            "Bytes that the service can still use on the store's file system.",
            space.free,
        )
        yield _gauge(
            "pexservice_store_filesystem_size_bytes",
            "The size of the store's file system.",
            space.size,
        )
    reader = store.oldest_reader()
    if reader is not None:
        yield _gauge(
            "pexservice_store_oldest_snapshot_commits",
            "Commits since the oldest state of the store that another process reads; no"
            " page that was freed since then is used again.",
            [((str(reader.pid),), reader.commits_behind)],
            "pid",
        )


def _shared_store(store: ISharedStore) -> Iterator[Metric]:
    yield _counter(
        "pexservice_cursor_went_back_total",
        "How often the cursor was found at an earlier revision than before: the store was"
        " restored from a snapshot, or emptied.",
        store.went_back_count,
    )
    yield SummaryMetricFamily(
        "pexservice_turn_wait_seconds",
        "Time that batches waited for the turns of other nodes.",
        store.turn_count,
        store.turn_wait_seconds,
    )
    if store.certificate_expires is not None:
        yield _gauge(
            "pexservice_store_certificate_expiry_timestamp_seconds",
            "When the client certificate for the store expires, in seconds since 1970.",
            store.certificate_expires,
        )


def _supervisor(report: SupervisorReport) -> Iterator[Metric]:
    yield _counter(
        "pexservice_failovers_total",
        "How often the active worker ended unexpectedly since the supervisor started.",
        report.failovers,
    )
    yield _counter(
        "pexservice_worker_restarts_total",
        "Workers that ended and were replaced since the supervisor started.",
        _by_name(report.ended_by_reason),
        "reason",
    )
    yield _counter(
        "pexservice_reloads_total",
        "Reloads, which replace all workers, that began since the supervisor started.",
        report.reloads,
    )
    yield _gauge(
        "pexservice_last_reload",
        "1 for the outcome of the last reload, else 0.",
        [
            ((outcome.name.lower(),), report.reload is outcome)
            for outcome in (Reload.UNDER_WAY, Reload.SUCCEEDED, Reload.FAILED)
        ],
        "outcome",
    )
    if report.problem:
        yield _gauge(
            "pexservice_problem",
            "1 while no worker is active, with the reason; absent while one is.",
            [((report.problem,), 1)],
            "reason",
        )
    if report.restart_pending:
        yield _gauge(
            "pexservice_restart_pending",
            "1 for each option whose change requires a restart.",
            _by_name(dict.fromkeys(report.restart_pending, 1)),
            "option",
        )
    yield _gauge("pexservice_standby_workers", "Standby workers.", report.standby_count)
    yield _gauge(
        "pexservice_standby_workers_wanted",
        "The number of standby workers that --standby asks for.",
        report.wanted_standby_count,
    )


def _by_name(numbers: Mapping[str, float]) -> Samples:
    return [((name,), number) for name, number in numbers.items()]


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:
        # choose_encoder fails if Accept has a media type whose version is not a number.
        return choose_encoder("")
