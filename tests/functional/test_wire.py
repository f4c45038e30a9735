"""
The requests that are taken, byte for byte.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.labs.attacks.attacking import Front
from tests.labs.attacks.lab import PROMPT
from tests.support.daemon import (
    PATIENCE,
    Daemon,
    children,
    patiently,
    read_all,
    read_answer,
)
from tests.support.forms import amount


@pytest.fixture(scope="module", params=["pexservice", "pexservice-worker"])
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """
    Provide one daemon for all tests, as a refused request changes nothing.

    The supervisor's worker is on uvloop, and a worker by itself on asyncio's own loop.
    """
    path = tmp_path_factory.mktemp("wire")
    with Daemon(path, "--max-connections", "500", command=request.param) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log.read_text()


def connect(daemon: Daemon) -> socket.socket:
    """
    Return a raw connection.
    """
    return socket.create_connection(("127.0.0.1", daemon.port), PATIENCE)


def exchange(daemon: Daemon, sent: bytes) -> bytes:
    """
    Send bytes, and read until the daemon closes.
    """
    with connect(daemon) as connection:
        connection.sendall(sent)
        return read_all(connection)


def request(line: bytes, *headers: bytes) -> bytes:
    """
    Return a request with a Host.
    """
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", b""])


def revision(daemon: Daemon) -> int:
    """
    Return the revision of the cursor.
    """
    return int(daemon.ask("/current")[0].headers["Pex-Revision"])


def test_every_attack_gets_the_response_of_its_rule_and_moves_nothing_unanswered(
    daemon: Daemon,
) -> None:
    """
    The bytes behind a refused request are not read as a request.
    """
    wrong = Front(daemon.port, lambda: revision(daemon)).try_all(PROMPT)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [b"/", b"/current", b"/next", b"/nothing"])
def test_response_to_head_has_no_body(daemon: Daemon, path: bytes) -> None:
    """
    Whatever it is, and the log has no warnings.
    """
    for head in (
        request(b"HEAD %b HTTP/1.1" % path, b"Connection: close"),
        b"HEAD %b HTTP/1.1\r\nHost: a b\r\n\r\n" % path,
    ):
        received = exchange(daemon, head)
        assert received.endswith(b"\r\n\r\n")
        assert re.search(rb"\r\nContent-Length: [1-9]", received)
    assert "Warning" not in daemon.log.read_text()


@pytest.mark.parametrize("path", [b"/next", b"*"])
def test_response_204_has_no_content_length(daemon: Daemon, path: bytes) -> None:
    """
    RFC 9110 forbids it.
    """
    received = exchange(
        daemon, request(b"OPTIONS %b HTTP/1.1" % path, b"Connection: close")
    )
    assert received.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"Content-Length" not in received


def test_unread_responses_do_not_pile_up_in_memory(daemon: Daemon) -> None:
    """
    While the client reads nothing, no more responses are made.

    When it reads, it gets them all.
    """
    exchange(
        daemon,
        request(b"POST /next HTTP/1.1") * 999 + request(b"POST /next HTTP/1.0"),
    )
    # Each answer has 60 KB then, so half of all of them, in MiB, is:
    count = amount(short=200, long=1000)
    half = count * 0.03
    with connect(daemon) as connection:
        before = memory(daemon)
        connection.sendall(
            request(b"GET /history?limit=1000 HTTP/1.1") * (count - 1)
            + request(b"GET /history?limit=1000 HTTP/1.0")
        )
        # Others have their turn all the while.
        for _ in range(20):
            assert daemon.ask("/livez")[1] == b"ok\n"
        assert memory(daemon) - before < half
        received = 0
        while chunk := connection.recv(1 << 20):
            received += len(chunk)
    assert received > count * 50_000


def worker(daemon: Daemon) -> int:
    """
    Return the process id of the serving worker: the process with the store open.
    """
    for pid in (daemon.process.pid, *children(daemon.process.pid)):
        # A child may end meanwhile.
        with suppress(FileNotFoundError):
            if any(
                descriptor.resolve().name == "data.mdb"
                for descriptor in Path(f"/proc/{pid}/fd").iterdir()
            ):
                return pid
    raise AssertionError("nobody has the store")


def memory(daemon: Daemon) -> int:
    """
    Return the memory of the process that serves, in MiB.
    """
    status = Path(f"/proc/{worker(daemon)}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024


def test_client_that_accepts_json_gets_the_refusal_as_json(daemon: Daemon) -> None:
    sent = request(
        b"POST /next HTTP/1.1", b"Accept: application/json", b"Content-Length: 65537"
    )
    received = exchange(daemon, sent)
    assert b"Content-Type: application/problem+json\r\n" in received
    assert received.endswith(b'endpoint needs a body"}\n')


def test_no_response_names_the_server(daemon: Daemon) -> None:
    for sent in (request(b"GET /current HTTP/1.0"), b"nonsense\r\n\r\n"):
        assert b"server:" not in exchange(daemon, sent).lower()


def test_response_has_exactly_these_bytes(daemon: Daemon) -> None:
    """
    Except for the date and the numbers.
    """
    received = exchange(daemon, request(b"GET /current HTTP/1.0"))
    assert re.fullmatch(
        rb"HTTP/1\.0 200 OK\r\n"
        rb"Connection: close\r\n"
        rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        rb"X-Content-Type-Options: nosniff\r\n"
        rb"Cross-Origin-Resource-Policy: same-origin\r\n"
        rb"Content-Type: text/plain; charset=utf-8\r\n"
        rb"Pex-Revision: \d+\r\n"
        rb"Pex-Position: \d+\r\n"
        rb'ETag: "\d+"\r\n'
        rb"Cache-Control: no-store\r\n"
        rb"Vary: Accept\r\n"
        rb"Content-Length: \d+\r\n"
        rb"\r\n\d+\n",
        received,
    ), received


@pytest.mark.parametrize("path", ["/", "/current", "/history", "/livez", "/nothing"])
def test_head_has_the_length_of_the_get_and_no_body(daemon: Daemon, path: str) -> None:
    get, body = daemon.ask(path)
    head, nothing = daemon.ask(path, "HEAD")
    assert (head.status, nothing) == (get.status, b"")
    assert head.headers["Content-Length"] == str(len(body))


def test_client_that_expects_100_continue_gets_it(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.sendall(
            request(
                b"POST /next HTTP/1.1",
                b"Expect: 100-continue",
                b"Content-Length: 2",
                b"Connection: close",
            )
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ab")
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "target", [b"http://example.org/current", b"HTTP://localhost:8081/current?x=y"]
)
def test_request_target_in_absolute_form_is_accepted(daemon: Daemon, target: bytes) -> None:
    """
    RFC 9112 3.2.2.
    """
    received = exchange(daemon, request(b"GET " + target + b" HTTP/1.0"))
    assert received.startswith(b"HTTP/1.0 200 OK\r\n")
    received = exchange(daemon, request(b"GET http://example.org HTTP/1.0"))
    assert b"A cursor over the Fibonacci sequence" in received


def test_options_asterisk_gets_a_response(daemon: Daemon) -> None:
    """
    It is about no path.
    """
    received = exchange(daemon, request(b"OPTIONS * HTTP/1.0"))
    assert received.startswith(b"HTTP/1.0 204 No Content\r\n")
    assert b"Allow: GET, HEAD, POST, OPTIONS\r\n" in received
    received = exchange(daemon, request(b"GET * HTTP/1.0"))
    assert received.startswith(b"HTTP/1.0 404 Not Found\r\n")


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", None, True),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"close", False),
        (b"1.1", b"Foo, Close", False),
        (b"1.0", None, False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"close", False),
    ],
)
def test_connection_stays_open_as_version_and_headers_ask(
    daemon: Daemon,
    version: bytes,
    connection: bytes | None,
    kept: bool,  # noqa: FBT001 pytest passes it by its name
) -> None:
    headers = [] if connection is None else [b"Connection: " + connection]
    first = request(b"GET /current HTTP/" + version, *headers)
    received = exchange(daemon, first + request(b"GET /current HTTP/1.0"))
    assert received.count(b" 200 OK\r\n") == 1 + kept
    answer = received.split(b"\r\n\r\n")[0]
    assert (b"Connection: close" in answer) == (not kept)
    assert (b"Connection: keep-alive" in answer) == (kept and version == b"1.0")


def test_strange_host_over_loopback_is_refused(daemon: Daemon) -> None:
    """
    An address, and no name at all, are accepted.
    """
    for host in (b"", b"a..b", b"x" * 300, b"xn--zz", b"%41:80", b"attacker.example"):
        sent = b"GET /current HTTP/1.0\r\nHost: " + host + b"\r\n\r\n"
        assert exchange(daemon, sent).startswith(b"HTTP/1.0 421 Misdirected Request\r\n")
    for head in (b"", b"Host: [::1]:8081\r\n", b"Host: LOCALHOST.\r\n"):
        sent = b"GET /current HTTP/1.0\r\n" + head + b"\r\n"
        assert exchange(daemon, sent).startswith(b"HTTP/1.0 200 OK\r\n")


def test_pipelined_requests_get_their_responses_in_order_once(daemon: Daemon) -> None:
    before = revision(daemon)
    sent = request(b"POST /next HTTP/1.1") * 999
    received = exchange(daemon, sent + request(b"POST /next HTTP/1.0"))
    revisions = [
        int(revision) for revision in re.findall(rb"Pex-Revision: (\d+)", received)
    ]
    assert revisions == [*range(before + 1, before + 1001)]


def test_request_is_read_however_the_network_splits_it(daemon: Daemon) -> None:
    with connect(daemon) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(b"GET /current HTTP/1.1", b"Connection: close"):
            connection.sendall(bytes((byte,)))
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK\r\n")


def test_client_that_half_closes_still_gets_all_responses(daemon: Daemon) -> None:
    before = revision(daemon)
    with connect(daemon) as connection:
        connection.sendall(request(b"POST /next HTTP/1.1") * 3)
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert revision(daemon) == before + 3


def test_client_that_leaves_within_a_request_has_sent_none(daemon: Daemon) -> None:
    before = revision(daemon)
    with connect(daemon) as connection:
        connection.sendall(request(b"POST /next HTTP/1.1")[:-2])
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""
    assert revision(daemon) == before


def test_clients_that_leave_during_their_step_do_not_disturb_others(daemon: Daemon) -> None:
    before = revision(daemon)
    for _ in range(200):
        with connect(daemon) as connection:
            connection.sendall(request(b"POST /next HTTP/1.1"))
    # On a busy machine some of them are still there, and as many as there may be.
    for _ in patiently():
        answer, _ = daemon.ask("/next", "POST")
        if answer.status != 503:
            break
    assert int(answer.headers["Pex-Revision"]) > before
    assert "Traceback" not in daemon.log.read_text()


def test_longest_idle_connection_makes_room_and_then_the_slowest(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--max-connections", "3") as daemon:
        resting = [connect(daemon) for _ in range(3)]
        for connection in resting:
            connection.sendall(request(b"GET /current HTTP/1.1"))
            assert read_answer(connection).startswith(b"HTTP/1.1 200 OK\r\n")
        resting[0].sendall(request(b"GET /current HTTP/1.1"))
        assert read_answer(resting[0]).startswith(b"HTTP/1.1 200 OK\r\n")
        assert exchange(daemon, request(b"GET /current HTTP/1.0")).endswith(b"0\n")
        assert resting[1].recv(1000) == b""
        # Then the one whose request has been arriving longest.
        for connection in (resting[2], resting[0]):
            connection.sendall(
                request(
                    b"POST /next HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 1"
                )
            )
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        newest = connect(daemon)
        newest.sendall(b"G")
        assert exchange(daemon, request(b"GET /current HTTP/1.0")).endswith(b"0\n")
        assert resting[2].recv(1000) == b""
        for connection in (*resting, newest):
            connection.close()


def test_new_connection_gets_503_when_no_other_can_make_room(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--max-connections", "1") as daemon, connect(daemon) as stream:
        stream.sendall(request(b"GET /events HTTP/1.1"))
        assert stream.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        answered = exchange(daemon, b"")
        assert answered.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"1 connections are busy; try again\n" in answered
