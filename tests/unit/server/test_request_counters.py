"""
Tests of the counters of requests: which requests are counted, and under which names.
"""

from __future__ import annotations

import pytest

from pexservice.stores.errors import Refusal
from tests.support.wire import Server

NEXT = b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"
CURRENT = b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n"

#: The same requests, as the counters name them.
COUNTED_NEXT = ("/next", "POST")
COUNTED_CURRENT = ("/current", "GET")


@pytest.fixture
def server() -> Server:
    """
    Return a server without plans.
    """
    return Server()


def send(server: Server, *chunks: bytes) -> None:
    """
    Send each of C{chunks} on its own connection.
    """
    for chunk in chunks:
        wire = server.connect()
        wire.send(chunk)
        wire.turns()


def counted(server: Server) -> dict[tuple[str, str, int], int]:
    """
    Return how many requests got a response, by endpoint, method and status.
    """
    return {
        (endpoint, method, status): count
        for endpoint, method, status, count in server.shared.counters.responses()
        if count
    }


def test_request_counts_the_same_with_and_without_a_plan(server: Server) -> None:
    send(server, *[NEXT] * 3, *[CURRENT] * 5)
    assert counted(server) == {(*COUNTED_NEXT, 200): 3, (*COUNTED_CURRENT, 200): 5}
    counters = server.shared.counters
    assert (counters.with_plan(), counters.without_plan) == (2 + 4, 2)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("failure", [Refusal("full"), LookupError("a bug")])
def test_failed_step_counts_under_its_status(
    failure: Exception, *, remembers: bool
) -> None:
    server = Server(remembers=remembers)
    send(server, NEXT)
    server.store.failure = failure
    send(server, NEXT, NEXT)
    assert counted(server) == {(*COUNTED_NEXT, 200): 1, (*COUNTED_NEXT, 503): 2}


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n", ("other", "GET", 404)),
        (b"BREW /current HTTP/1.1\r\nHost: h\r\n\r\n", ("/current", "other", 405)),
        (b"HEAD /next?x HTTP/1.1\r\nHost: h\r\n\r\n", ("/next", "HEAD", 405)),
        (b"GET http://h/current HTTP/1.1\r\nHost: h\r\n\r\n", ("/current", "GET", 200)),
        (b"GET /current HTTP/1.1\r\n\r\n", ("other", "other", 400)),
        (b"nonsense\r\n\r\n", ("other", "other", 400)),
    ],
)
def test_made_up_paths_and_methods_count_as_one(
    server: Server, request_: bytes, key: tuple[str, str, int]
) -> None:
    """
    All paths or methods that do not exist are counted as one.

    Otherwise, clients could fill the memory.
    """
    send(server, request_)
    assert counted(server) == {key: 1}


def test_refusal_for_too_many_connections_counts_as_a_response(server: Server) -> None:
    server.connections.limit = 0
    send(server, b"")
    assert counted(server) == {("other", "other", 503): 1}
    assert (server.connections.accepted, server.connections.refused) == (0, 1)
