"""
C{/metrics} of a real service, and the alerts and the dashboard, checked by promtool.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import LOOPBACK, TIMEOUT_SECONDS, Daemon, poll_attempts
from tests.support.daemon import run as run_twistd
from tests.support.needs import program
from tests.unit.test_metrics import ROOT, samples

RULES = ROOT / "deploy" / "prometheus"


@pytest.fixture
def promtool() -> str:
    """
    Provide the path of promtool, from Debian's package prometheus.
    """
    path = program("promtool")
    assert path is not None
    return path


def run(*command: str, text: bytes = b"", path: Path = ROOT) -> str:
    """
    Run C{command}, and return its output; fail if its status is not 0.
    """
    ran = subprocess.run(
        command,
        cwd=path,
        check=False,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_SECONDS,
    )
    output = ran.stdout.decode()
    assert ran.returncode == 0, output
    return output


@pytest.mark.needs("promtool")
def test_counters_of_the_supervisor_outlive_the_worker(
    tmp_path: Path, promtool: str
) -> None:
    """
    The worker's own counters start again at 0, and the revision comes from the store.
    """
    with Daemon(tmp_path) as daemon:
        daemon.until_logged("serves", 1)
        daemon.until_logged("stands by", 1)
        for _ in range(5):
            daemon.request("/next", "POST")
        _, before = daemon.request("/metrics")
        values = samples(before)
        assert values["pexservice_failovers_total"] == 0
        assert values["pexservice_worker_restarts_total,reason=killed"] == 0
        _, pid = daemon.active_worker()
        os.kill(pid, signal.SIGKILL)
        answer, _ = daemon.request("/next", "POST")
        assert answer.headers["Pex-Revision"] == "6"
        for _ in poll_attempts():
            # The standby takes over before the supervisor knows that the worker has ended.
            _, text = daemon.request("/metrics")
            values = samples(text)
            if (
                values["pexservice_standby_workers"]
                and values["pexservice_failovers_total"]
            ):
                break
        supervisor_values = {
            name.removeprefix("pexservice_"): value
            for name, value in values.items()
            if not name.startswith(("pexservice_http_requests_total", "process_"))
        }
        assert supervisor_values["failovers_total"] == 1
        assert (
            supervisor_values["standby_workers"]
            == supervisor_values["standby_workers_wanted"]
            == 1
        )
        assert {
            name: value
            for name, value in supervisor_values.items()
            if name.startswith("worker_restarts_total") and value
        } == {"worker_restarts_total,reason=killed": 1}
        assert supervisor_values["revision"] == supervisor_values["position"] == 6
        assert supervisor_values["transitions_total,outcome=moved,transition=next"] == 1
        assert supervisor_values["commit_duration_seconds_count"] == 1
        assert supervisor_values["connections"] >= 1
        assert (
            supervisor_values["store_used_bytes"] <= supervisor_values["store_limit_bytes"]
        )
        assert (
            0
            < supervisor_values["store_filesystem_free_bytes"]
            <= supervisor_values["store_filesystem_size_bytes"]
        )
        assert run(promtool, "check", "metrics", text=text) == ""


@pytest.mark.needs("promtool")
def test_worker_without_a_supervisor_has_no_supervisor_metrics(
    tmp_path: Path, promtool: str
) -> None:
    with Daemon(tmp_path, command="pexservice-worker") as daemon:
        _, text = daemon.request("/metrics")
        assert b"pexservice_revision 0.0\n" in text
        assert b"restarts" not in text
        assert run(promtool, "check", "metrics", text=text) == ""


def test_wrong_scoreboard_is_one_line_that_names_the_option(tmp_path: Path) -> None:
    worker = ("-n", "--pidfile=", "pexservice-worker", "--listen", LOOPBACK)
    ran = run_twistd(tmp_path, *worker, "--scoreboard", "77")
    assert ran.returncode == 1
    assert ran.stderr == "pexservice: --scoreboard 77: Bad file descriptor\n"


@pytest.mark.needs("promtool")
def test_alerts_fire_when_they_should_and_not_otherwise(promtool: str) -> None:
    run(promtool, "check", "rules", "--lint-fatal", "alerts.yml", path=RULES)
    run(promtool, "test", "rules", "alerts_test.yml", path=RULES)
    # Every alert is tested.
    alerts = [
        line.partition("alert: ")[2]
        for line in (RULES / "alerts.yml").read_text().splitlines()
        if "- alert: " in line
    ]
    tested = (RULES / "alerts_test.yml").read_text()
    assert alerts
    assert [name for name in alerts if f'"{name}"' not in tested] == []


@pytest.mark.needs("promtool")
def test_dashboard_has_valid_queries_and_no_overlapping_panels(
    tmp_path: Path, promtool: str
) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "pexservice.json").read_text())
    panels = dashboard["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]
    # JSON is valid YAML.
    (tmp_path / "rules.yml").write_text(
        json.dumps({"groups": [{"name": "panels", "rules": rules}]})
    )
    output = run(promtool, "check", "rules", "--lint-fatal", "rules.yml", path=tmp_path)
    assert f"{len(expressions)} rules found" in output
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not covered & cells
        assert max(cells)[0] < 24
        covered |= cells
