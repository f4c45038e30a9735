"""
The sockets that systemd passes, and the limit of open files.
"""

from __future__ import annotations

import os
import resource
import socket

import pytest
from twisted.internet.task import Clock

from pexservice.process.exit_status import Misconfigured
from pexservice.process.listening import (
    RESERVED_DESCRIPTORS,
    affordable_connections,
    listen_endpoints,
    passed_by_systemd,
)


def test_socket_that_does_not_listen_is_refused() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as deaf,
    ):
        for wrong in (datagrams, deaf):
            number = os.dup(wrong.fileno())
            with pytest.raises(Misconfigured, match=f"{number} is no listening stream"):
                listen_endpoints(Clock(), [f"fd:{number}"])


def variables(count: str, pid: int) -> dict[str, str]:
    """
    Return the variables with which systemd passes sockets.
    """
    return {"LISTEN_FDS": count, "LISTEN_PID": str(pid)}


def test_every_socket_of_systemd_is_served() -> None:
    assert [*passed_by_systemd(variables("2", os.getpid()))] == [3, 4]


@pytest.mark.parametrize(
    ("count", "is_own_pid"), [("", True), ("0", True), ("x", True), ("1", False)]
)
def test_service_without_sockets_of_systemd_is_misconfigured(
    count: str, *, is_own_pid: bool
) -> None:
    """
    Another unit is needed, so a restart does not help.
    """
    given = variables(count, os.getpid() if is_own_pid else 1)
    with pytest.raises(Misconfigured, match="systemd has passed no socket"):
        passed_by_systemd(given)


UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "room", "then"),
    [
        (1024, 524_288, 10_000, [10_000 + RESERVED_DESCRIPTORS]),
        (1024, UNLIMITED, 10_000, [10_000 + RESERVED_DESCRIPTORS]),
        (1024, 4096, 4096 - RESERVED_DESCRIPTORS, [4096]),
        # A limit is never lowered.
        (20_000, 20_000, 10_000, []),
        (UNLIMITED, UNLIMITED, 10_000, []),
        (100, 100, 1, [100]),
    ],
)
def test_limit_of_open_files_is_raised_as_far_as_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, room: int, then: list[int]
) -> None:
    new_limits: list[object] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: new_limits.append(new))
    assert affordable_connections(10_000) == room
    assert new_limits == [(limit, hard) for limit in then]
