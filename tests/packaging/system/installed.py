"""
The service that the package has installed on this machine, and its clients.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import NamedTuple

from tests.support.clients import Client, running
from tests.support.commands import run_command
from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts, wait_until

PORT = 8081
SERVICE = "pexservice.service"
SOCKET = "pexservice.socket"
CONFIG = Path("/etc/pexservice/pexservice.toml")
DEFAULTS = Path("/etc/default/pexservice")


run = partial(run_command, timeout=5 * TIMEOUT_SECONDS)


def run_as(user: str, *command: str, status: int = 0) -> str:
    """
    Run a command as C{user}; see L{run_command}.
    """
    return run("runuser", "-u", user, "--", *command, status=status)


def unit_property(name: str, unit: str = SERVICE) -> str:
    """
    Return a property of a unit from C{systemctl show}.
    """
    return run("systemctl", "show", "--value", "--property", name, unit).strip()


@contextmanager
def original_config() -> Iterator[str]:
    """
    Yield the text of the configuration file, and restore the file after the block.
    """
    text = CONFIG.read_text()
    try:
        yield text
    finally:
        CONFIG.write_text(text)


def append_to_config(text: str) -> None:
    CONFIG.write_text(CONFIG.read_text() + text)


@contextmanager
def drop_in(text: str, unit: str = SERVICE) -> Iterator[None]:
    """
    Change a unit by a drop-in file until the end of the block.  It is not restarted.
    """
    file = Path(f"/run/systemd/system/{unit}.d/test.conf")
    file.parent.mkdir(parents=True)
    file.write_text(text)
    try:
        run("systemctl", "daemon-reload")
        yield
    finally:
        shutil.rmtree(file.parent)
        run("systemctl", "daemon-reload")


@contextmanager
def moved_socket(text: str) -> Iterator[None]:
    """
    Let systemd listen as a drop-in file of the socket unit says until the end of the block.
    """
    try:
        with drop_in(text, SOCKET):
            run("systemctl", "restart", SOCKET)
            yield
    finally:
        run("systemctl", "restart", SOCKET)


def run_scenarios(*scenarios: Callable[[], object]) -> None:
    for scenario in scenarios:
        print(scenario.__name__, flush=True)
        scenario()


def supervisor() -> int:
    """
    Return the process id of the supervisor, or 0 if there is none.
    """
    return int(unit_property("MainPID"))


def service_log(*options: str) -> str:
    """
    Return the log of the present supervisor and its workers.
    """
    return run("journalctl", "--output=cat", f"_PID={supervisor()}", *options)


def serving() -> int:
    """
    Return the process id of the active worker, according to the log.
    """
    for _ in poll_attempts():
        log = service_log()
        names = re.findall(r"(worker-\d+) serves", log)
        pids = re.findall(rf"{names[-1]} is process (\d+)", log) if names else []
        if pids:
            return int(pids[-1])
    raise AssertionError(f"none serves:\n{log}")


def until_another_serves(former_worker: int) -> int:
    """
    Wait until another worker is active, and return its process id.
    """
    wait_until(lambda: serving() != former_worker, f"another worker than {former_worker}")
    return serving()


def ask(path: str, method: str = "GET") -> tuple[HTTPResponse, str]:
    """
    Make one request on its own connection, and return the response and its body.
    """
    connection = HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


class Cursor(NamedTuple):
    revision: int
    position: int


def cursor() -> Cursor:
    """
    Return the cursor, according to C{/current}.
    """
    response, text = ask("/current")
    assert response.status == 200, text
    headers = response.headers
    return Cursor(int(headers["Pex-Revision"]), int(headers["Pex-Position"]))


@contextmanager
def load() -> Iterator[Sequence[Client]]:
    """
    Make steps with several clients until the end of the block.

    Each step has its own connection, and a key, so that a client can repeat it.

    No connection may be refused, and each step must be made once: the revisions in the
    responses are all the new revisions.  The caller must check everything else.
    """
    # Clients with an odd number use keys.  The number is random, so the keys are new.
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
        response.revision for client in clients for response in client.acknowledged
    )
    assert revisions == [*range(before + 1, cursor().revision + 1)]
    cut_off = sum(client.broken for client in clients)
    print(f"{len(revisions)} steps, {cut_off} sent again", flush=True)


@contextmanager
def undisturbed_load() -> Iterator[Sequence[Client]]:
    """
    Make steps as L{load} does, and check that no connection ended without a response.
    """
    with load() as clients:
        yield clients
    assert [client.broken for client in clients] == [0] * len(clients)


def until_answered(clients: Sequence[Client]) -> None:
    """
    Wait until each client has a response to a request that began after this call.
    """
    now = time.monotonic()
    wait_until(
        lambda: all(
            client.acknowledged and client.acknowledged[-1].began > now
            for client in clients
        ),
        "each client has an answer",
    )
