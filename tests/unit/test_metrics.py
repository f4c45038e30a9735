"""
The contents of C{/metrics}, and the documents that rely on them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from zope.interface import implementer

from pexservice.metrics import Metrics
from pexservice.process.supervisor_report import END_REASONS, Reload, SupervisorReport
from pexservice.server.limits import Connections
from pexservice.server.request_counters import RequestCounters
from pexservice.stores.errors import Refusal
from pexservice.stores.interface import IExclusiveStore, IStore, OldStateReader, Space
from pexservice.stores.shared_interface import ISharedStore
from tests.support.caller import Caller
from tests.support.wire import Server

ROOT = Path(__file__).parents[2]

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text"


def samples(text: bytes) -> dict[str, float]:
    """
    Return the samples of C{text}: the number of each C{name,label=value,...}.
    """
    return {
        sample.name
        + "".join(
            f",{name}={value}" for name, value in sorted(sample.labels.items())
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(call: Caller) -> dict[str, float]:
    """
    Return the samples of C{/metrics} now.
    """
    answer = call("GET", "/metrics")
    assert answer.status == 200
    return samples(answer.body)


def test_metrics_are_uncached_prometheus_text() -> None:
    answer = Caller()("GET", "/metrics")
    assert (answer.status, answer["Content-Type"]) == (200, PLAIN)
    assert (answer["Cache-Control"], answer["Vary"]) == ("no-store", "Accept")
    assert answer.length == len(answer.body)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", PLAIN),
        ("text/html", PLAIN),
        ("application/json", PLAIN),
        (f"{OPEN};version=1.0.0;q=0.5, text/plain;version=0.0.4;q=0.2", OPEN),
        (f"{OPEN};version=0.0.1,*/*", None),
        ("text/plain;version=x", PLAIN),
        (f"{OPEN};version=1.x.0", None),
        (f"{OPEN};version=" + "9" * 5000, None),
        ("a;version=\xe4;escaping=\xb2,,;=", PLAIN),
    ],
)
def test_every_accept_header_gets_metrics(accept: str, kind: str | None) -> None:
    """
    Any C{Accept} header gets an answer: never a 406, and never a failure.

    @param kind: L{None} where the versions of prometheus_client differ.
    """
    answer = Caller()("GET", "/metrics", Accept=accept)
    assert answer.status == 200
    content_type = str(answer["Content-Type"])
    if kind is not None:
        assert content_type.startswith(kind)
    assert answer.body.endswith(b"# EOF\n") == content_type.startswith(OPEN)


def test_steps_are_counted_by_transition_and_outcome() -> None:
    """
    The cursor and the commits have metrics too.
    """
    call = Caller()
    for _ in range(21):
        call("POST", "/next")
    call("POST", "/next", Idempotency_Key="k")
    call("POST", "/next", Idempotency_Key="k")
    call("POST", "/previous", If_Match='"1"')
    call.store.failure = Refusal("full")
    call("POST", "/reset")
    values = scrape(call)
    counted = {
        name.removeprefix("pexservice_transitions_total,outcome="): value
        for name, value in values.items()
        if name.startswith("pexservice_transitions_total") and value
    }
    assert counted == {
        "moved,transition=next": 22,
        "replayed,transition=next": 1,
        "unmet,transition=previous": 1,
        "not_taken,transition=reset": 1,
    }
    # Each counter begins at 0.
    assert values["pexservice_transitions_total,outcome=unknown,transition=next"] == 0
    assert values["pexservice_revision"] == 22
    assert values["pexservice_position"] == 22
    # The value is 17,711.
    assert values["pexservice_position_digits"] == 5
    assert values["pexservice_ready"] == 1
    assert values["pexservice_commit_batch_size_sum"] == 22
    assert values["pexservice_commit_batch_size_bucket,le=1.0"] == 22
    assert values["pexservice_commit_duration_seconds_count"] == 22


def test_requests_and_connections_are_those_that_the_server_counted() -> None:
    server = Server()
    step = b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"
    wire = server.connect()
    for request in (step, step, step, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"):
        wire.send(request)
        wire.turns()
    text = wire.received.rpartition(b"\r\n\r\n")[2]
    values = samples(text)
    requests = "pexservice_http_requests_total,endpoint=/next,method=POST,status="
    assert (values[requests + "200"], values[requests + "503"]) == (3, 0)
    assert values["pexservice_memo_hits_total"] == 2
    assert values["pexservice_memo_misses_total"] == 1
    assert values["pexservice_connections"] == 1
    assert values["pexservice_connections_limit"] == 100
    assert values["pexservice_connections_accepted_total"] == 1


def test_metrics_of_an_unread_store_are_left_out() -> None:
    call = Caller()
    call.committer.refuse_all("the store is in use")
    values = scrape(call)
    assert "pexservice_revision" not in values
    assert "pexservice_position_digits" not in values
    assert values["pexservice_ready"] == 0
    assert values["pexservice_memo_hits_total"] == 0


def test_counters_of_the_supervisor_appear_only_with_a_supervisor() -> None:
    ours = re.compile("pexservice_(worker|failover|standby|reloads|last_reload)")
    assert [name for name in scrape(Caller()) if ours.match(name)] == []
    counts = {reason: number for number, reason in enumerate(END_REASONS, 10)}
    report = SupervisorReport(3, 0, 1, counts, 4, Reload.FAILED)
    values = scrape(Caller(report=report))
    assert {name: value for name, value in values.items() if ours.match(name)} == {
        "pexservice_failovers_total": 3,
        "pexservice_reloads_total": 4,
        "pexservice_last_reload,outcome=under_way": 0,
        "pexservice_last_reload,outcome=succeeded": 0,
        "pexservice_last_reload,outcome=failed": 1,
        "pexservice_standby_workers": 0,
        "pexservice_standby_workers_wanted": 1,
        **{
            f"pexservice_worker_restarts_total,reason={reason}": number
            for reason, number in counts.items()
        },
    }


@implementer(IExclusiveStore, ISharedStore)
class OnDisk:  # type: ignore[misc]  # no more of a store than metrics read
    """
    A store on a disk, with a reader that holds an old state, and a store of many nodes.
    """

    went_back_count = 1
    turn_count = 2
    turn_wait_seconds = 0.5
    certificate_expires = 1_795_000_000.0

    def space(self) -> Space:
        """
        Return the free and the used space.
        """
        return Space(1, 2, 3, 4)

    def oldest_reader(self) -> OldStateReader:
        """
        Return the state that the reader holds.
        """
        return OldStateReader(4711, 7)


@pytest.fixture
def everything() -> list[Metric]:
    """
    Provide every metric that there can be.
    """
    call = Caller()
    metrics = Metrics(
        call.committer,
        RequestCounters(),
        Connections(100),
        cast(IStore, OnDisk()),
        lambda: SupervisorReport(problem="gone", restart_pending=("--store",)),
        certificate_expires=1_795_000_001.0,
    )
    answer = metrics.response(None).body.decode()
    families = [*text_string_to_metric_families(answer)]
    return [family for family in families if family.name.startswith("pexservice_")]


def test_metrics_show_the_store_its_oldest_reader_and_when_certificates_expire(
    everything: list[Metric],
) -> None:
    values = {
        sample.name.removeprefix("pexservice_"): (sample.value, sample.labels)
        for metric in everything
        for sample in metric.samples
        if sample.name.startswith(("pexservice_store_", "pexservice_tls_"))
    }
    assert values == {
        "store_used_bytes": (1, {}),
        "store_limit_bytes": (2, {}),
        "store_filesystem_free_bytes": (3, {}),
        "store_filesystem_size_bytes": (4, {}),
        "store_oldest_snapshot_commits": (7, {"pid": "4711"}),
        "store_certificate_expiry_timestamp_seconds": (1_795_000_000, {}),
        "tls_certificate_expiry_timestamp_seconds": (1_795_000_001, {}),
    }


def test_table_of_the_documentation_has_exactly_these_metrics(
    everything: list[Metric],
) -> None:
    """
    It has the name, kind, labels and help of each.
    """
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"(?m)^\| `(pexservice_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", page)
    assert [
        (name, kind, {*labels.split(", ")}, meaning) for name, kind, labels, meaning in rows
    ] == [
        (
            f"{metric.name}_total" if metric.type == "counter" else metric.name,
            metric.type,
            {f"`{label}`" for label in metric.samples[0].labels if label != "le"} or {""},
            metric.documentation,
        )
        for metric in everything
    ]


#: The metrics that C{pexctl backup --textfile} leaves for the node's own metrics.
BACKUP_METRICS = ("failed", "kept", "last_success_timestamp_seconds", "revision")


@pytest.mark.parametrize("path", ["grafana/pexservice.json", "prometheus/alerts.yml"])
def test_dashboard_and_alerts_name_existing_metrics(
    path: str, everything: list[Metric]
) -> None:
    exist = {sample.name for metric in everything for sample in metric.samples}
    exist |= {name for name in scrape(Caller()) if name.startswith("process_")}
    exist |= {f"pexservice_backup_{name}" for name in BACKUP_METRICS}
    text = (ROOT / "deploy" / path).read_text()
    named = set(re.findall(r"\b(?:pexservice|process)_\w+", text))
    assert named
    assert named - exist == set()
