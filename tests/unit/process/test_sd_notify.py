"""
systemd's notify protocol, both ends.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactor

from pexservice.process.sd_notify import ALIVE, READY, Listener, Notifier


@pytest.fixture
def heard() -> list[tuple[int, list[str]]]:
    """
    What the listener has heard.
    """
    return []


@pytest.fixture
def listener(heard: list[tuple[int, list[str]]]) -> Listener:
    """
    A supervisor's end.
    """
    listener = Listener(MemoryReactor(), lambda pid, lines: heard.append((pid, lines)))
    listener.start()
    return listener


def test_from_end_to_end(listener: Listener, heard: list[tuple[int, list[str]]]) -> None:
    """
    What is told is heard, line by line, from whom the kernel says it is.
    """
    notifier = Notifier({"NOTIFY_SOCKET": listener.name})
    notifier.tell(READY, "STATUS=serving")
    notifier.tell(ALIVE)
    listener.doRead()
    assert heard == [
        (os.getpid(), [READY, "STATUS=serving"]),
        (os.getpid(), [ALIVE]),
    ]
    listener.stop()


def test_nonsense(listener: Listener, heard: list[tuple[int, list[str]]]) -> None:
    """
    Whatever bytes somebody sends, they are lines of text.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"\xff\xfe\n\n", b"x" * 10_000):
            stranger.sendto(data, "\0" + listener.name[1:])
    listener.doRead()
    assert [len(lines) for _, lines in heard] == [0, 2, 1]
    listener.stop()


def test_a_path(tmp_path: Path) -> None:
    """
    The socket of systemd has a path.
    """
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        Notifier({"NOTIFY_SOCKET": path}).tell(READY)
        assert systemd.recv(100) == b"READY=1"


def test_nobody_listens(tmp_path: Path) -> None:
    """
    Without a socket nothing is told, and one that is gone is no failure.
    """
    Notifier({}).tell(READY)
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY)


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({}, None),
    ],
)
def test_the_watchdog(environment: dict[str, str], watchdog: float | None) -> None:
    """
    Whoever started the process may want to know whether it is alive; not if that was
    meant for another process.
    """
    assert Notifier({"NOTIFY_SOCKET": "@nobody", **environment}).watchdog == watchdog
    assert Notifier(environment).watchdog is None
