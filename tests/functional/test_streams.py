"""
Connections under stress, on both event loops.
"""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.functional.test_memory import memory
from tests.functional.test_wire import connect, exchange
from tests.labs.attacks.attacking import request
from tests.support.crowd import certified
from tests.support.daemon import (
    REACTORS,
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    poll_attempts,
    read_all,
    read_response,
    run,
)
from tests.support.forms import amount
from tests.support.stores import make_store

FAR = 100_000


@pytest.fixture(scope="module", params=REACTORS)
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """
    Provide a worker whose responses have 20,899 digits.
    """
    path = tmp_path_factory.mktemp("streams")
    make_store(path / "pexservice-data", FAR)
    with Daemon(path, command=WORKER, reactor=request.param) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log.read_text()


def test_a_client_that_does_not_read_costs_bounded_memory(daemon: Daemon) -> None:
    """
    After a while, the worker reads no more requests from this client.

    Each request is in its own packet.
    """
    current_request = request(b"GET /current HTTP/1.1")
    before, sent = memory(daemon), 0
    with connect(daemon) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(1)
        with suppress(TimeoutError):
            while sent < 100_000:
                connection.sendall(current_request)
                sent += 1
                if sent < 20:
                    # Give the worker time to cache the request.
                    daemon.request("/livez")
        assert sent < 100_000
        assert memory(daemon) - before < 30 << 20
        # A client that reads again gets responses again.
        connection.settimeout(TIMEOUT_SECONDS)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert daemon.request("/livez")[1] == b"ok\n"


def test_requests_wait_while_their_client_reads_no_responses(daemon: Daemon) -> None:
    """
    The client sends all requests in one piece.  When it reads again, it gets all responses.
    """
    count = amount(short=2000, long=5000)
    first_count = response_count(daemon)
    with connect(daemon) as connection:
        current_request = request(b"GET /current HTTP/1.1")
        connection.sendall(
            current_request * (count - 1) + request(b"GET /current HTTP/1.0")
        )
        # Other clients are served meanwhile.  The worker stops when the number of its
        # responses stays the same.
        earlier = first_count
        for _ in poll_attempts():
            number = response_count(daemon)
            if number == earlier > first_count:
                break
            earlier = number
        assert number - first_count < count / 2
        received = 0
        while chunk := connection.recv(1 << 20):
            received += len(chunk)
    assert received > count * 20_899


def response_count(daemon: Daemon) -> float:
    """
    Return how many responses to reads of the cursor the worker has made.
    """
    metrics = daemon.request("/metrics")[1].decode()
    series = r'pexservice_http_requests_total\{endpoint="/current",.*\} (\S+)'
    return sum(map(float, re.findall(series, metrics)))


def test_connected_clients_are_served_without_free_descriptors(daemon: Daemon) -> None:
    """
    The worker closes the connection that was idle longest.

    When there are descriptors again, it serves all clients.
    """
    pid = daemon.process.pid
    # The worker closes one idle connection each time that it cannot accept another, so the
    # newest one stays open for a while.
    *resting, kept = (connect(daemon) for _ in range(30))
    for connection in (*resting, kept):
        connection.sendall(request(b"HEAD /current HTTP/1.1"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    few = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 3
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, limit[1]))
    crowd = [connect(daemon) for _ in range(20)]
    kept.sendall(request(b"GET /livez HTTP/1.1"))
    assert read_response(kept).startswith(b"HTTP/1.1 200 OK\r\n")
    for connection in (*resting, *crowd):
        connection.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    for _ in poll_attempts():
        if b"200 OK" in exchange(daemon, request(b"GET /livez HTTP/1.0")):
            break
    assert daemon.process.poll() is None
    kept.close()


#: The certificate expires at this time.
EXPIRY = datetime(2040, 2, 29, 12, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize("reactor", REACTORS)
def test_responses_over_tls_are_the_same(reactor: str, tmp_path: Path) -> None:
    """
    The test uses keep-alive connections and large responses.

    A client without TLS gets no response.  A client that offers HTTP/2 gets HTTP/1.1,
    although Twisted offers HTTP/2 if two packages are installed.  The test creates empty
    ones.
    """
    (tmp_path / "h2").mkdir()
    for module in ("__init__", "config", "connection", "errors", "events", "exceptions"):
        (tmp_path / "h2" / f"{module}.py").touch()
    (tmp_path / "priority.py").touch()
    make_store(tmp_path / "pexservice-data", FAR)
    files, trusting = certified(tmp_path, "localhost", "127.0.0.1", not_after=EXPIRY)
    trusting.set_alpn_protocols(["h2", "http/1.1"])

    def exchange_over_tls(daemon: Daemon, sent: bytes) -> bytes:
        with trusting.wrap_socket(connect(daemon), server_hostname="localhost") as secure:
            assert secure.selected_alpn_protocol() == "http/1.1"
            secure.sendall(sent)
            return read_all(secure)

    with Daemon(tmp_path, *files, command=WORKER, reactor=reactor) as daemon:
        client = HTTPSConnection(
            "127.0.0.1", daemon.port, timeout=TIMEOUT_SECONDS, context=trusting
        )
        for n in range(1, 30):
            client.request("POST", "/next")
            answer = client.getresponse()
            assert answer.headers["Pex-Position"] == str(FAR + n)
            assert len(answer.read()) in range(20_899, 20_910)
        assert not exchange(daemon, request(b"GET /current HTTP/1.0")).startswith(b"HTTP")
        client.close()
        reads = request(b"GET /current HTTP/1.1") * 3 + request(b"GET /current HTTP/1.0")
        assert exchange_over_tls(daemon, reads).count(b" 200 OK\r\n") == 4
        metrics = exchange_over_tls(daemon, request(b"GET /metrics HTTP/1.0"))
        name = b"pexservice_tls_certificate_expiry_timestamp_seconds"
        (value,) = re.findall(rb"(?m)^%b (\S+)$" % name, metrics)
        assert float(value) == EXPIRY.timestamp()
        assert "Traceback" not in daemon.log.read_text()


def test_reactor_that_cannot_carry_a_worker_ends_it_with_one_line(tmp_path: Path) -> None:
    """
    The line names the reactors that can.

    With its own choice, the worker gets as far as listening on an address that this machine
    does not have.
    """
    worker = ("pexservice-worker", "--listen", "tcp:1:interface=192.0.2.1")
    ended = run(tmp_path, "-n", "--pidfile=", *worker)
    assert "cannot listen on tcp:1:interface=192.0.2.1" in ended.stderr
    ended = run(tmp_path, "-n", "--pidfile=", "--reactor=epoll", *worker)
    assert ended.returncode == 64
    assert ended.stderr.splitlines()[-1].endswith(
        "use twistd --reactor=uvloop or --reactor=asyncio"
    )
    assert "Traceback" not in ended.stdout + ended.stderr
