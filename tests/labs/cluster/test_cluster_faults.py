"""
The short form of the faults of etcd, of nodes, and of the connections between them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.cluster.lab import (
    CLIENTS,
    MIN_RESPONSES,
    USER_CHANGES,
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
    """
    result, *others = cluster_faults(tmp_path, 1, followers=("killed", "paused"))
    print(result, *others)
    assert result.reads > 10 * MIN_RESPONSES
    assert result.operations - result.reads > 10 * MIN_RESPONSES
    # Without a quorum, all nodes refused requests, and some outcomes were unknown.
    assert result.unknown > 0
    assert result.unavailable > CLIENTS


@pytest.mark.needs("etcd", "etcdctl")
def test_restored_and_emptied_etcd_is_reported_and_the_history_continues(
    tmp_path: Path,
) -> None:
    """
    Each node reports that etcd went back, and the other responses agree with one history.

    A functional test restores a snapshot with a higher revision of etcd.
    """
    assert cluster_restores(tmp_path, [Restore.PLAIN, Restore.EMPTIED]) > 0


@pytest.mark.needs("etcd")
def test_changes_of_etcds_users_leave_one_cursor_and_a_cn_is_refused_only_with_users(
    tmp_path: Path,
) -> None:
    """
    The nodes use TLS with client certificates, passwords and JWT.
    """
    assert cluster_users(tmp_path, USER_CHANGES) > MIN_RESPONSES
