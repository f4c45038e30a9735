"""
The requests that are taken, byte for byte.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

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


LONG = b"x" * 20_000

REFUSED = {
    "no Host": (b"POST /next HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (request(b"POST /next HTTP/1.1", b"Host: localhost"), 400),
    "a Host that is none": (b"POST /next HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a Host with a path": (b"POST /next HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "no version": (request(b"POST /next"), 400),
    "another protocol": (request(b"POST /next SPDY/3"), 400),
    "another version": (request(b"POST /next HTTP/2.0"), 400),
    "too many words": (request(b"POST /next now HTTP/1.1"), 400),
    "no words": (b" \r\n\r\n", 400),
    "binary": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a header without a colon": (request(b"POST /next HTTP/1.1", b"colon"), 400),
    "a header without a name": (request(b"POST /next HTTP/1.1", b": value"), 400),
    "a space before the colon": (request(b"POST /next HTTP/1.1", b"Name : value"), 400),
    "a folded header": (request(b"POST /next HTTP/1.1", b"Name: a", b" b"), 400),
    "a name with a space": (request(b"POST /next HTTP/1.1", b"A name: value"), 400),
    "a null in a value": (request(b"POST /next HTTP/1.1", b"Name: a\0b"), 400),
    "a return in a value": (request(b"POST /next HTTP/1.1", b"Name: a\rb"), 400),
    "an escape in a value": (request(b"POST /next HTTP/1.1", b"Name: a\x1bb"), 400),
    "a length that is none": (
        request(b"POST /next HTTP/1.1", b"Content-Length: +5") + b"12345",
        400,
    ),
    "a negative length": (request(b"POST /next HTTP/1.1", b"Content-Length: -1"), 400),
    "two lengths": (
        request(b"POST /next HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6"),
        400,
    ),
    "a length and chunks": (
        request(b"POST /next HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked")
        + b"0\r\n\r\n",
        400,
    ),
    "chunks and a length": (
        request(b"POST /next HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 5")
        + b"0\r\n\r\n",
        400,
    ),
    "chunks in HTTP/1.0": (
        request(b"POST /next HTTP/1.0", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "no coding": (request(b"POST /next HTTP/1.1", b"Transfer-Encoding: identity"), 400),
    "no coding and chunks": (
        request(
            b"POST /next HTTP/1.1",
            b"Transfer-Encoding: identity",
            b"Transfer-Encoding: chunked",
        )
        + b"0\r\n\r\n",
        400,
    ),
    "an unknown coding": (
        request(b"POST /next HTTP/1.1", b"Transfer-Encoding: gzip, chunked"),
        400,
    ),
    "a chunk of no size": (
        request(b"POST /next HTTP/1.1", b"Transfer-Encoding: chunked") + b"xyz\r\n",
        400,
    ),
    "too large a body": (request(b"POST /next HTTP/1.1", b"Content-Length: 65537"), 413),
    "far too large a body": (
        request(b"POST /next HTTP/1.1", b"Content-Length: " + b"9" * 5000),
        413,
    ),
    "too large a body, asking first": (
        request(b"POST /next HTTP/1.1", b"Content-Length: 65537", b"Expect: 100-continue"),
        413,
    ),
    "too many chunks": (
        request(b"POST /next HTTP/1.1", b"Transfer-Encoding: chunked")
        + b"1000\r\n%b\r\n" % (b"x" * 4096) * 17,
        413,
    ),
    "a long line": (request(b"POST /next?" + LONG[:9000] + b" HTTP/1.1"), 414),
    "a very long line": (request(b"POST /next?" + LONG + b" HTTP/1.1"), 414),
    "a line without an end": (b"POST /next?" + LONG, 414),
    "a long header": (request(b"POST /next HTTP/1.1", b"Name: " + LONG), 431),
    "a header without an end": (
        b"POST /next HTTP/1.1\r\nHost: localhost\r\nName: " + LONG,
        431,
    ),
    "many headers": (request(b"POST /next HTTP/1.1", *[b"Name: value"] * 200), 431),
    "a header of many lines": (
        request(b"POST /next HTTP/1.1", b"Name: value", *[b" more"] * 100),
        431,
    ),
    "two long headers": (
        request(b"POST /next HTTP/1.1", *[b"Name: " + LONG[:9000]] * 2),
        431,
    ),
    "large headers": (
        request(b"POST /next HTTP/1.1", *[b"Name: " + LONG[:1000]] * 40),
        431,
    ),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_refused_request_gets_status_length_and_reason_and_moves_nothing(
    daemon: Daemon, sent: bytes, status: int
) -> None:
    """
    The connection is closed, and the bytes behind the request are not read as a request.
    """
    before = revision(daemon)
    received = exchange(daemon, sent + request(b"POST /next HTTP/1.1"))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head + b"\r\n"
    assert body.endswith(b"\n")
    assert body.count(b"\n") == 1
    assert revision(daemon) == before


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
    count = amount(short=400, long=1000)
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


TAKEN = {
    "no body": b"",
    "a length of 0": b"Content-Length: 0\r\n\r\n",
    "a body": b"Content-Length: 5\r\n\r\n12345",
    "the largest body": b"Content-Length: 65536\r\n\r\n" + b"x" * 65536,
    "a form": (
        b"Content-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 7\r\n\r\nlimit=x"
    ),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
    "a tab in a value": b"Name: a\tb\r\n\r\n",
}


@pytest.mark.parametrize("rest", TAKEN.values(), ids=TAKEN)
def test_body_changes_nothing_and_the_next_request_is_found_behind_it(
    daemon: Daemon, rest: bytes
) -> None:
    sent = b"POST /next HTTP/1.1\r\nHost: localhost\r\n" + (rest or b"\r\n")
    before = revision(daemon)
    received = exchange(
        daemon, sent + request(b"GET /current HTTP/1.1", b"Connection: close")
    )
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert received.count(b"Pex-Revision: %d\r\n" % (before + 1)) == 2


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
