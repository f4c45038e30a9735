"""
The sockets that systemd passes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from pexservice.process.exit_status import Misconfigured
from pexservice.process.listening import ALL_OF_SYSTEMD, passed_by_systemd
from pexservice.settings.values import endpoint

#: Prints the file descriptors that systemd has passed, or the error.
PROGRAM = """
import os, sys
if "LISTEN_PID" not in os.environ:
    # As systemd, which knows the process id before it starts the program.
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
from twisted.internet.task import Clock
from pexservice.process.listening import places
try:
    print(*[each.endpoint.descriptor for each in places(Clock(), ["systemd:all"])])
except Exception as error:
    print(error)
"""


def passed(*sockets: socket.socket) -> str:
    """
    Start a process as systemd does, with C{sockets} from file descriptor 3 on.

    @return: the descriptors that the process finds, or its error.
    """
    numbers = [each.fileno() for each in sockets]

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


def test_all_are_served() -> None:
    """
    Every listening socket that systemd passes is served, however many there are.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        assert passed(one) == "3"
        assert passed(one, two) == "3 4"


def test_a_socket_that_is_no_listening_stream_socket() -> None:
    """
    A socket that is no listening stream socket is refused with a line that names it.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as deaf,
    ):
        for wrong in (datagrams, deaf):
            assert "socket 2 of 2 is no listening stream socket" in passed(one, wrong)


@pytest.mark.parametrize("count", ["", "0", "x"])
def test_none(count: str) -> None:
    """
    Without sockets, or with those of another process, the service is misconfigured.

    Nothing would be served.  The remedy is another unit and not another start.
    """
    ours = {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid())}
    with pytest.raises(Misconfigured, match="systemd has passed no socket"):
        list(passed_by_systemd(ours))
    with pytest.raises(Misconfigured):
        list(passed_by_systemd({"LISTEN_FDS": "1", "LISTEN_PID": "1"}))


def test_how_it_is_written() -> None:
    """
    C{systemd:all} is one of the endpoints that the command line takes.
    """
    assert endpoint(ALL_OF_SYSTEMD) == "systemd:all"
