"""
systemd's notify protocol.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.logger import capturedLogs

from pexservice.process.sd_notify import ALIVE, MAX_MESSAGE_LINE_BYTES, READY, Notifier


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Leave out the variables of the program that started the tests.
    """
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """
    Provide the reading and the writing end of a pipe.
    """
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("name", ["{directory}/notify", "@pexservice-{pid}"])
def test_socket_of_the_service_manager_has_a_path_or_an_abstract_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The notifier keeps the descriptor that it opened at first.
    """
    path = name.format(directory=tmp_path, pid=os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with closing(Notifier.to_service_manager()) as notifier:
            full = Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))
            monkeypatch.setattr(socket, "socket", full)
            notifier.notify(READY, "STATUS=serving")
            notifier.notify(ALIVE)
        notifier.notify("STATUS=nobody is told any more")
        assert manager.recv(100) == b"READY=1\nSTATUS=serving\n"
        assert manager.recv(100) == b"WATCHDOG=1\n"
        manager.setblocking(False)  # noqa: FBT003 its only argument
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_message_to_a_supervisor_has_whole_lines_of_limited_length(
    pipe: tuple[int, int],
) -> None:
    """
    No child of this process inherits the writing end.
    """
    reading, writing = pipe
    os.set_inheritable(writing, True)  # noqa: FBT003 its only argument
    notifier = Notifier.to_supervisor(writing)
    assert not os.get_inheritable(writing)
    notifier.notify("STATUS=the file \udcff\nREADY=1\r\nis missing", "X=" + "\u20ac" * 5000)
    first, second, rest = os.read(reading, 10_000).split(b"\n")
    assert first == b"STATUS=the file \\udcff READY=1 is missing"
    assert (len(second), rest) == (MAX_MESSAGE_LINE_BYTES, b"")


def test_no_message_waits_for_a_supervisor_that_does_not_read(
    pipe: tuple[int, int],
) -> None:
    """
    A message is sent as a whole or not at all, and the failure is logged once.

    The next message has the newest lines that were not sent, in their order.
    """
    reading, writing = pipe
    notifier = Notifier.to_supervisor(writing)
    with capturedLogs() as events:
        for lines in [()] * 100 + [(READY,), ("RELOADING=1", "STATUS=new"), (READY,)]:
            notifier.notify("X=" + "x" * 2000, *lines)
        assert len(events) == 1
        assert len(os.read(reading, 1_000_000)) % (MAX_MESSAGE_LINE_BYTES + 1) == 0
        notifier.notify(ALIVE)
    assert len(events) == 1
    names = re.findall(rb"^[A-Z]+", os.read(reading, 1_000_000), re.MULTILINE)
    assert names == [b"RELOADING", b"STATUS", b"X", b"READY", b"WATCHDOG"]
    assert select.select([reading], [], [], 0)[0] == []


def test_without_a_socket_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A missing socket may appear later.
    """
    Notifier().notify(READY)
    Notifier.to_service_manager().notify(READY)
    path = str(tmp_path / "later")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notifier = Notifier.to_service_manager()
    with capturedLogs() as events, closing(notifier):
        notifier.notify(READY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            notifier.notify(READY)
            assert manager.recv(100) == b"READY=1\n"
        notifier.notify(READY)
    assert len(events) == 2


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
def test_environment_gives_the_interval_of_the_watchdog(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    watchdog: float | None,
    pipe: tuple[int, int],
) -> None:
    """
    Variables for another process do not count.
    """
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Notifier.to_service_manager().watchdog is None
    assert Notifier.to_supervisor(pipe[1]).watchdog == watchdog
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
    with closing(Notifier.to_service_manager()) as notifier:
        assert notifier.watchdog == watchdog
