"""
Every call of the client is answered and made once, in the short form.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.client.callers import Calls
from tests.labs.client.lab import CALLERS, check, one_machine, three_nodes
from tests.support.daemon import Daemon


@pytest.mark.parametrize(
    "proxied", [False, pytest.param(True, marks=pytest.mark.needs("nginx"))]
)
def test_every_call_is_made_once_while_workers_and_supervisors_are_killed(
    tmp_path: Path, *, proxied: bool
) -> None:
    """
    Every call is made once while workers and their supervisor are killed.

    This holds with nginx between and without.
    """
    result = one_machine(tmp_path, 9.0, proxied=proxied, supervisors=4.0)
    print(result)
    assert result.kills > 0
    assert result.restarts > 0
    assert result.requests > result.calls >= CALLERS


@pytest.mark.needs("etcd")
def test_every_call_is_made_once_while_nodes_are_killed_with_their_etcd(
    tmp_path: Path,
) -> None:
    result = three_nodes(tmp_path, 9.0)
    print(result)
    assert result.kills > 0
    assert result.requests > result.calls >= CALLERS


def test_control_finds_unmatched_steps_and_calls(tmp_path: Path) -> None:
    with Daemon(tmp_path, command="pexservice-worker") as daemon:
        url = f"http://127.0.0.1:{daemon.port}"
        daemon.ask("/next", "POST")
        caller = Calls(begun=1, answers=[(1, 1, "next", 0.1)], keys=1)
        check([caller], url)
        two = Calls(begun=2, answers=[(1, 1, "next", 0.1), (2, 2, "next", 0.1)], keys=2)
        with pytest.raises(AssertionError, match="1 steps for 2 calls"):
            check([two], url)
        daemon.ask("/next", "POST")
        with pytest.raises(AssertionError, match="2 steps for 1 calls"):
            check([caller], url)
