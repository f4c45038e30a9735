"""
Faults of three etcd, three nodes, and the connections between them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.cluster.lab import (
    CHANGES,
    CLIENTS,
    TRAFFIC,
    Restore,
    cluster_faults,
    cluster_restores,
    cluster_users,
)

pytestmark = pytest.mark.once


@pytest.mark.needs("etcd")
def test_faults_of_etcd_and_the_network_leave_one_linearizable_cursor(
    tmp_path: Path,
) -> None:
    """
    24 clients record their responses, and each key makes one step.

    The faults concern leaders, followers, nodes and connections.
    """
    result = cluster_faults(tmp_path, 1, followers=("killed", "paused"))
    print(result)
    assert result.looks > 10 * TRAFFIC
    assert result.operations - result.looks > 10 * TRAFFIC
    # Without a quorum, some outcomes were unknown and all nodes refused.
    assert result.unknown > 0
    assert result.unready > CLIENTS


@pytest.mark.needs("etcd", "etcdctl")
def test_restored_and_emptied_etcd_is_reported_and_the_history_continues(
    tmp_path: Path,
) -> None:
    """
    Each daemon reports that etcd went back, and the rest is one cursor's history.
    """
    assert cluster_restores(tmp_path, [*Restore]) > 0


@pytest.mark.needs("etcd")
def test_changes_of_etcds_users_leave_one_cursor_and_a_cn_is_refused_only_with_users(
    tmp_path: Path,
) -> None:
    """
    The nodes use TLS with client certificates, passwords and JWT.
    """
    assert cluster_users(tmp_path, CHANGES) > TRAFFIC
