"""
The short form of the test that each call of the client makes exactly one step.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.client.lab import CLIENTS, ClientRecord, check, one_machine, three_nodes
from tests.support.daemon import Daemon


@pytest.mark.parametrize(
    "proxied", [False, pytest.param(True, marks=pytest.mark.needs("nginx"))]
)
def test_every_call_is_made_once_while_workers_and_supervisors_are_killed(
    tmp_path: Path, *, proxied: bool
) -> None:
    result = one_machine(tmp_path, 9.0, proxied=proxied, supervisor_interval=4.0)
    print(result)
    assert result.kills > 0
    assert result.restarts > 0
    assert result.repetitions > 0
    assert result.calls >= CLIENTS


@pytest.mark.needs("etcd")
def test_every_call_is_made_once_while_nodes_are_killed_with_their_etcd(
    tmp_path: Path,
) -> None:
    result = three_nodes(tmp_path, 9.0)
    print(result)
    assert result.kills > 0
    assert result.repetitions > 0
    assert result.calls >= CLIENTS


def test_control_finds_unmatched_steps_and_calls(tmp_path: Path) -> None:
    with Daemon(tmp_path, command="pexservice-worker") as daemon:
        url = f"http://127.0.0.1:{daemon.port}"
        daemon.request("/next", "POST")
        one, two = (1, 1, "next", 0.1), (2, 2, "next", 0.1)
        one_call = ClientRecord(call_count=1, responses=[one])
        check([one_call], url)
        two_calls = ClientRecord(call_count=2, responses=[one, two])
        with pytest.raises(AssertionError, match="1 steps for 2 calls"):
            check([two_calls], url)
        daemon.request("/next", "POST")
        with pytest.raises(AssertionError, match="2 steps for 1 calls"):
            check([one_call], url)
