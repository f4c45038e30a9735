"""
The sockets that systemd passes, and the limit of open files.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys

import pytest

from pexservice.process.exit_status import CannotStart, Misconfigured
from pexservice.process.listening import (
    MIN_OPEN_FILES,
    RESERVED_DESCRIPTORS,
    affordable_connections,
    check_open_file_limit,
    passed_by_systemd,
)

#: Prints the file descriptors that systemd has passed, or the error.
PROGRAM = """
import os, sys
if "LISTEN_PID" not in os.environ:
    # As systemd, which knows the process id before it starts the program.
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
from twisted.internet.task import Clock
from pexservice.process.listening import listen_endpoints
try:
    endpoints = listen_endpoints(Clock(), ["systemd:all"])
    print(*[each.endpoint._socket.fileno() for each in endpoints])
except Exception as error:
    print(error)
"""


def passed(*sockets: socket.socket) -> str:
    """
    Start a process as systemd does, with C{sockets} from file descriptor 3 on.

    @return: the descriptors that the process finds, or its error.
    """
    numbers = [passed_socket.fileno() for passed_socket in sockets]

    def give() -> None:
        kept = [os.dup2(number, 50 + place) for place, number in enumerate(numbers)]
        for place, number in enumerate(kept):
            os.dup2(number, 3 + place)

    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        preexec_fn=give,
        close_fds=False,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LISTEN_FDS": str(len(sockets))},
    ).stdout.rstrip("\n")


def test_every_socket_of_systemd_is_served() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first_socket,
        socket.create_server(("127.0.0.1", 0)) as second_socket,
    ):
        assert passed(first_socket, second_socket) == "3 4"


def test_socket_of_systemd_that_does_not_listen_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening_socket,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as deaf,
    ):
        for wrong in (datagrams, deaf):
            assert passed(listening_socket, wrong).startswith(
                "cannot listen on systemd:all: file descriptor 4 is no listening stream"
            )


@pytest.mark.parametrize("count", ["", "0", "x"])
def test_service_without_sockets_of_systemd_is_misconfigured(count: str) -> None:
    """
    Another unit is needed, so a restart does not help.
    """
    ours = {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid())}
    with pytest.raises(Misconfigured, match="systemd has passed no socket"):
        passed_by_systemd(ours)
    with pytest.raises(Misconfigured):
        passed_by_systemd({"LISTEN_FDS": "1", "LISTEN_PID": "1"})


UNLIMITED = resource.RLIM_INFINITY


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> list[object]:
    """
    Give the process a soft and a hard limit of open files.

    @return: the new limits that the process sets.
    """
    new_limits: list[object] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: new_limits.append(new))
    return new_limits


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
    new_limits = limited(monkeypatch, soft, hard)
    assert affordable_connections(10_000) == room
    assert new_limits == [(limit, hard) for limit in then]


def test_too_low_a_limit_of_open_files_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The message has the number that is needed.
    """
    for enough in (MIN_OPEN_FILES, UNLIMITED):
        limited(monkeypatch, enough, enough)
        check_open_file_limit()
    limited(monkeypatch, MIN_OPEN_FILES - 1, MIN_OPEN_FILES - 1)
    message = f"limit of open files is {MIN_OPEN_FILES - 1}, but {MIN_OPEN_FILES}"
    with pytest.raises(CannotStart, match=message):
        check_open_file_limit()
