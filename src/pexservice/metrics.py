"""
C{/metrics}: what the rooms count, as Prometheus reads it.

Nothing is counted here.  L{FAMILIES} says what each metric is called and where its
numbers are found, and they are fetched when somebody asks.

prometheus_client writes the text.  Its own counters are not used: each takes a lock for
an addition, and a look-up for its labels.  It is imported when a worker starts, since
the first to ask would have to wait for it; much of what it imports is here anyway.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version

from attrs import frozen
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

import twisted
from pexservice.commit.counters import Counts, Histogram
from pexservice.commit.interface import ICommitter
from pexservice.core.cursor import State
from pexservice.process import scoreboard
from pexservice.process.scoreboard import Reload, Score
from pexservice.server.fast_path import FastPath
from pexservice.server.limits import Connections
from pexservice.server.request_counters import RequestCounters
from pexservice.stores.interface import IOnDisk, IStore, Snapshot, Space
from pexservice.web.replies import Reply

#: The values of a family's labels, and what there is of them.
Sample = tuple[tuple[str, ...], float]


@frozen(kw_only=True)
class Reading:
    """
    All that one answer is made from.

    @ivar versions: of the service, Python and Twisted.
    @ivar state: what the disk has, once it is read.
    @ivar space: L{None} if the store has no disk, or is not open.
    @ivar snapshot: the oldest state of the store that a process reads, if one does.
    @ivar score: L{None} without a supervisor.
    """

    versions: tuple[str, str, str]
    ready: bool
    state: State | None
    counts: Counts
    requests: RequestCounters
    connections: Connections
    space: Space | None
    snapshot: Snapshot | None
    score: Score | None


@frozen
class Family:
    """
    One metric, or several with a label each.

    @ivar kind: C{"counter"}, whose name ends in C{_total}, or C{"gauge"}.
    @ivar read: fetches the numbers; none, if there are none.
    """

    name: str
    kind: str
    help: str
    read: Callable[[Reading], Iterable[Sample]]
    labels: tuple[str, ...] = ()

    def metric(self, reading: Reading) -> Metric:
        """
        As prometheus_client has it.
        """
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = make(self.name, self.help, labels=self.labels)
        for labels, value in self.read(reading):
            metric.add_metric(labels, value)
        return metric


@frozen
class Distribution:
    """
    A metric that is a histogram.
    """

    name: str
    help: str
    read: Callable[[Reading], Histogram]
    kind: str = "histogram"
    labels: tuple[str, ...] = ()

    def metric(self, reading: Reading) -> Metric:
        """
        As prometheus_client has it.
        """
        histogram = self.read(reading)
        buckets = [
            (floatToGoString(bound), count) for bound, count in histogram.cumulative()
        ]
        return HistogramMetricFamily(
            self.name, self.help, buckets=buckets, sum_value=histogram.total
        )


def _one(value: Callable[[Reading], float]) -> Callable[[Reading], list[Sample]]:
    return lambda reading: [((), value(reading))]


def _state(value: Callable[[State], float]) -> Callable[[Reading], list[Sample]]:
    return lambda reading: [] if reading.state is None else [((), value(reading.state))]


def _space(value: Callable[[Space], float]) -> Callable[[Reading], list[Sample]]:
    return lambda reading: [] if reading.space is None else [((), value(reading.space))]


def _score(value: Callable[[Score], float]) -> Callable[[Reading], list[Sample]]:
    return lambda reading: [] if reading.score is None else [((), value(reading.score))]


def _transitions(reading: Reading) -> Iterator[Sample]:
    for transition, outcome, count in reading.counts.transitions():
        yield (transition.word, outcome), count


def _requests(reading: Reading) -> Iterator[Sample]:
    for endpoint, method, status, count in reading.requests.answered():
        yield (endpoint, method, str(status)), count


def _closed(reading: Reading) -> Iterator[Sample]:
    for reason, count in reading.connections.closed.items():
        yield (reason,), count


def _restarts(reading: Reading) -> Iterator[Sample]:
    if reading.score is not None:
        for reason, count in reading.score.restarts.items():
            yield (reason,), count


def _snapshot(reading: Reading) -> Iterator[Sample]:
    if reading.snapshot is not None:
        yield (str(reading.snapshot.pid),), reading.snapshot.commits


def _reloads(reading: Reading) -> Iterator[Sample]:
    if reading.score is not None and reading.score.reloads is not None:
        yield (), reading.score.reloads


def _last_reload(reading: Reading) -> Iterator[Sample]:
    if reading.score is not None and reading.score.reloads is not None:
        for outcome in (Reload.UNDER_WAY, Reload.SUCCEEDED, Reload.FAILED):
            yield (outcome.name.lower(),), reading.score.reload is outcome


#: All but C{process_*}, which prometheus_client has.
FAMILIES: tuple[Family | Distribution, ...] = (
    Family(
        "pexservice_build_info",
        "gauge",
        "Always 1; the versions are in the labels.",
        lambda reading: [(reading.versions, 1)],
        ("version", "python", "twisted"),
    ),
    Family(
        "pexservice_ready",
        "gauge",
        "Whether a step would be taken, as /readyz says it.",
        _one(lambda reading: reading.ready),
    ),
    Family(
        "pexservice_revision",
        "gauge",
        "The revision on disk: transitions since the store was made.",
        _state(lambda state: state.revision),
    ),
    Family(
        "pexservice_position",
        "gauge",
        "The position on disk.",
        _state(lambda state: state.position),
    ),
    Family(
        "pexservice_position_digits",
        "gauge",
        "Decimal digits of the value there.",
        _state(lambda state: state.term.size),
    ),
    Family(
        "pexservice_transitions_total",
        "counter",
        "Transitions that were asked for, by what came of them.",
        _transitions,
        ("transition", "outcome"),
    ),
    Distribution(
        "pexservice_commit_duration_seconds",
        "Time that a commit took, with the way to its thread and back if it has one.",
        lambda reading: reading.counts.durations,
    ),
    Distribution(
        "pexservice_commit_batch_size",
        "Transitions that shared a commit.",
        lambda reading: reading.counts.sizes,
    ),
    Family(
        "pexservice_http_requests_total",
        "counter",
        "Requests that were answered.",
        _requests,
        ("endpoint", "method", "status"),
    ),
    Family(
        "pexservice_memo_hits_total",
        "counter",
        "Requests that were answered without being parsed.",
        _one(lambda reading: reading.requests.hits()),
    ),
    Family(
        "pexservice_memo_misses_total",
        "counter",
        "Requests that had to be parsed.",
        _one(lambda reading: reading.requests.misses()),
    ),
    Family(
        "pexservice_connections",
        "gauge",
        "Connections that are open.",
        _one(lambda reading: len(reading.connections)),
    ),
    Family(
        "pexservice_connections_limit",
        "gauge",
        "Connections that may be open.",
        _one(lambda reading: reading.connections.limit),
    ),
    Family(
        "pexservice_connections_accepted_total",
        "counter",
        "Connections that were taken.",
        _one(lambda reading: reading.connections.accepted),
    ),
    Family(
        "pexservice_connections_refused_total",
        "counter",
        "Connections that were not, because all others were busy.",
        _one(lambda reading: reading.connections.refused),
    ),
    Family(
        "pexservice_connections_closed_total",
        "counter",
        "Connections that the service closed: idle, slow to send, stalled in taking"
        " answers, or displaced by a new one.",
        _closed,
        ("reason",),
    ),
    Family(
        "pexservice_store_used_bytes",
        "gauge",
        "Of the store's file, pages that are free again included.",
        _space(lambda space: space.used),
    ),
    Family(
        "pexservice_store_limit_bytes",
        "gauge",
        "What the store's file may grow to.",
        _space(lambda space: space.limit),
    ),
    Family(
        "pexservice_store_filesystem_free_bytes",
        "gauge",
        "Free for the service on the store's file system.",
        _space(lambda space: space.free),
    ),
    Family(
        "pexservice_store_filesystem_size_bytes",
        "gauge",
        "Of the store's file system.",
        _space(lambda space: space.size),
    ),
    Family(
        "pexservice_store_oldest_snapshot_commits",
        "gauge",
        "Commits since the oldest state of the store that another process reads; no page"
        " freed since is used again.",
        _snapshot,
        ("pid",),
    ),
    Family(
        "pexservice_failovers_total",
        "counter",
        "How often the worker that served ended unasked, since the supervisor started.",
        _score(lambda score: score.failovers),
    ),
    Family(
        "pexservice_worker_restarts_total",
        "counter",
        "Workers that ended and were replaced, since the supervisor started.",
        _restarts,
        ("reason",),
    ),
    Family(
        "pexservice_reloads_total",
        "counter",
        "Replacements of all workers that began, since the supervisor started.",
        _reloads,
    ),
    Family(
        "pexservice_last_reload",
        "gauge",
        "1 for what came of the last replacement of all workers, else 0.",
        _last_reload,
        ("outcome",),
    ),
    Family(
        "pexservice_standby_workers",
        "gauge",
        "Workers that stand by.",
        _score(lambda score: score.standing_by),
    ),
    Family(
        "pexservice_standby_workers_wanted",
        "gauge",
        "Workers that should, by --standby.",
        _score(lambda score: score.standby),
    ),
)


class Metrics(Collector):
    """
    Of one worker.
    """

    def __init__(
        self,
        committer: ICommitter,
        fast_path: FastPath,
        store: IStore | None = None,
        supervisor: int | None = None,
    ) -> None:
        """
        @param supervisor: the descriptor of its scoreboard.
        """
        self._committer = committer
        self._fast_path = fast_path
        self._on_disk: IOnDisk | None = IOnDisk(store, None)
        self._supervisor = supervisor
        self._versions = (
            version("pexservice"),
            platform.python_version(),
            twisted.__version__,
        )
        # Of our own: prometheus_client's has what it finds interesting.
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def reply(self, accept: Sequence[bytes] | None) -> Reply:
        """
        @param accept: a request's C{Accept} values, if it had any.
        """
        encode, kind = _encoder(b",".join(accept or ()).decode("latin-1"))
        headers = (
            (b"Content-Type", kind.encode("latin-1")),
            (b"Cache-Control", b"no-store"),
            (b"Vary", b"Accept"),
        )
        return Reply(200, headers, encode(self._registry))

    def collect(self) -> Iterator[Metric]:
        """
        See L{Collector.collect}.
        """
        reading = self._read()
        for family in FAMILIES:
            metric = family.metric(reading)
            if metric.samples:
                yield metric

    def _read(self) -> Reading:
        committer, on_disk = self._committer, self._on_disk
        return Reading(
            versions=self._versions,
            ready=committer.refusal is None,
            state=committer.durable if committer.unread is None else None,
            counts=committer.counts,
            requests=self._fast_path.requests,
            connections=self._fast_path.connections,
            space=None if on_disk is None else on_disk.space(),
            snapshot=None if on_disk is None else on_disk.oldest_snapshot(),
            score=None if self._supervisor is None else scoreboard.read(self._supervisor),
        )


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:
        # It compares whatever a client calls a version with a number.
        return choose_encoder("")
