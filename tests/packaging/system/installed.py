"""
The service as the package installed it on this machine, and its clients.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse

from attrs import frozen

from tests.support.clients import Client, running
from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts, wait_until

PORT = 8081
SERVICE = "pexservice.service"
SOCKET = "pexservice.socket"


def run(*command: str, status: int = 0) -> str:
    """
    Run a command to its end.

    @return: what it wrote.
    """
    ended = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=5 * TIMEOUT_SECONDS,
    )
    assert ended.returncode == status, f"{command}: {ended.returncode}\n{ended.stdout}"
    return ended.stdout


def shown(name: str, unit: str = SERVICE) -> str:
    """
    Return a property of a unit, as systemd has it.
    """
    return run("systemctl", "show", "--value", "--property", name, unit).strip()


def move_socket() -> None:
    """
    Have systemd listen where the socket unit says.
    """
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", SOCKET)


def supervisor() -> int:
    """
    Return the process id of the supervisor; 0 without one.
    """
    return int(shown("MainPID"))


def service_log() -> str:
    """
    Return what the supervisor that runs now has logged.
    """
    return run("journalctl", "--output=cat", f"_PID={supervisor()}")


def serving() -> int:
    """
    Return the process id of the worker that serves, by the log.
    """
    for _ in poll_attempts():
        log = service_log()
        names = re.findall(r"(worker-\d+) serves", log)
        pids = re.findall(rf"{names[-1]} is process (\d+)", log) if names else []
        if pids:
            return int(pids[-1])
    raise AssertionError(f"none serves:\n{log}")


def until_another_serves(than: int) -> int:
    """
    Wait until another worker than C{than} serves.

    @return: the process id of the worker that serves then.
    """
    for _ in poll_attempts():
        pid = serving()
        if pid != than:
            return pid
    raise AssertionError(f"{than} still serves")


def ask(path: str, method: str = "GET") -> tuple[HTTPResponse, str]:
    """
    Make one request on its own connection.
    """
    connection = HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


@frozen
class Cursor:
    """
    A state of the cursor.
    """

    revision: int
    position: int


def cursor() -> Cursor:
    """
    Return where the cursor is, by C{/current}.
    """
    response, text = ask("/current")
    assert response.status == 200, text
    headers = response.headers
    return Cursor(int(headers["Pex-Revision"]), int(headers["Pex-Position"]))


@contextmanager
def load() -> Iterator[Sequence[Client]]:
    """
    Have clients step as fast as they are answered, each step on its own connection.

    Each step has a key, so that a step that got no answer is sent again.

    Nobody is refused, and each step is made once: the revisions that the clients are told
    are all there are.  What else must hold is for the caller to say.
    """
    # Clients with an odd number use keys, of which none was used before.
    number = 2 * secrets.randbits(40) + 1
    clients = [Client(number + 2 * n, PORT, fresh=True) for n in range(4)]
    before = cursor().revision
    with running(clients):
        until_answered(clients)
        yield clients
        until_answered(clients)
    assert [surprise for client in clients for surprise in client.surprises] == []
    assert [client.refused for client in clients] == [0] * len(clients)
    revisions = sorted(
        answer.revision for client in clients for answer in client.acknowledged
    )
    assert revisions == [*range(before + 1, cursor().revision + 1)]
    cut_off = sum(client.broken for client in clients)
    print(f"{len(revisions)} steps, {cut_off} sent again", flush=True)


def until_answered(clients: Sequence[Client]) -> None:
    """
    Wait until each client has an answer to a request that it begins from now on.
    """
    now = time.monotonic()
    wait_until(
        lambda: all(
            client.acknowledged and client.acknowledged[-1].began > now
            for client in clients
        ),
        "each client has an answer",
    )


def assert_none_cut_off(clients: Sequence[Client]) -> None:
    """
    Check that no connection ended without its answer.
    """
    assert [client.broken for client in clients] == [0] * len(clients)
