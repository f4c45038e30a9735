"""
C{/metrics} of a real service, and the alerts and the dashboard, checked by promtool.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.commands import run_command
from tests.support.daemon import LOOPBACK, Daemon, poll_attempts, run
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


@pytest.mark.needs("promtool")
def test_counters_of_the_supervisor_outlive_the_worker(
    tmp_path: Path, promtool: str
) -> None:
    """
    The worker's own counters start again at 0, and the revision comes from the store.
    """
    with Daemon(tmp_path) as daemon:
        daemon.until_up()
        for _ in range(5):
            daemon.step()
        values = samples(daemon.request("/metrics")[1])
        assert values["pexservice_failovers_total"] == 0
        assert values["pexservice_worker_restarts_total,reason=killed"] == 0
        daemon.kill_active_worker()
        assert daemon.step() == 6
        for _ in poll_attempts():
            # The standby takes over before the supervisor knows that the worker has ended.
            _, text = daemon.request("/metrics")
            values = {
                name.removeprefix("pexservice_"): value
                for name, value in samples(text).items()
            }
            if values["standby_workers"] and values["failovers_total"]:
                break
        assert values["failovers_total"] == 1
        assert values["standby_workers"] == values["standby_workers_wanted"] == 1
        restarts = [
            (name, value)
            for name, value in values.items()
            if name.startswith("worker_restarts_total") and value
        ]
        assert restarts == [("worker_restarts_total,reason=killed", 1)]
        assert values["revision"] == values["position"] == 6
        assert values["transitions_total,outcome=moved,transition=next"] == 1
        assert values["store_used_bytes"] <= values["store_limit_bytes"]
        size = values["store_filesystem_size_bytes"]
        assert 0 < values["store_filesystem_free_bytes"] <= size
        assert run_command(promtool, "check", "metrics", input=text.decode()) == ""


def test_wrong_scoreboard_is_one_line_that_names_the_option(tmp_path: Path) -> None:
    worker = ("-n", "--pidfile=", "pexservice-worker", "--listen", LOOPBACK)
    ran = run(tmp_path, *worker, "--scoreboard", "77")
    assert ran.returncode == 1
    assert ran.stderr == "pexservice: --scoreboard 77: Bad file descriptor\n"


@pytest.mark.needs("promtool")
def test_alerts_fire_when_they_should_and_not_otherwise(promtool: str) -> None:
    run_command(promtool, "check", "rules", "--lint-fatal", "alerts.yml", cwd=RULES)
    # The alerts of the second file take days, so Prometheus evaluates them less often.
    files = ("alerts_test.yml", "alerts_days_test.yml")
    run_command(promtool, "test", "rules", *files, cwd=RULES)
    # Every alert is tested.
    alerts = re.findall("- alert: (.*)", (RULES / "alerts.yml").read_text())
    tested = "".join((RULES / file).read_text() for file in files)
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
    output = run_command(
        promtool, "check", "rules", "--lint-fatal", "rules.yml", cwd=tmp_path
    )
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
