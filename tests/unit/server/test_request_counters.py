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


def hits_and_misses(server: Server) -> tuple[int, int]:
    """
    Return how many requests had a plan, and how many had none.
    """
    return server.shared.counters.with_plan(), server.shared.counters.without_plan


def test_request_counts_the_same_with_and_without_a_plan(server: Server) -> None:
    send(server, *[NEXT] * 3, *[CURRENT] * 5)
    assert counted(server) == {(*COUNTED_NEXT, 200): 3, (*COUNTED_CURRENT, 200): 5}
    assert hits_and_misses(server) == (2 + 4, 2)


@pytest.mark.parametrize("remembers", [True, False])
def test_step_that_was_not_taken_counts_under_its_status(remembers: bool) -> None:  # noqa: FBT001 pytest names it
    server = Server(remembers=remembers)
    send(server, NEXT)
    server.store.failure = Refusal("full")
    send(server, NEXT, NEXT)
    assert counted(server) == {(*COUNTED_NEXT, 200): 1, (*COUNTED_NEXT, 503): 2}


def test_step_that_fails_by_a_bug_counts_under_its_status(server: Server) -> None:
    send(server, NEXT)
    server.store.failure = LookupError("a bug")
    send(server, NEXT)
    assert counted(server) == {(*COUNTED_NEXT, 200): 1, (*COUNTED_NEXT, 503): 1}
    tally = server.shared.counters.tally(b"/next", b"POST")
    for _ in range(2):
        tally.others[507] += 1
    assert counted(server)[(*COUNTED_NEXT, 507)] == 2
    assert hits_and_misses(server) == (3, 1)


def test_a_client_that_is_gone_was_not_answered(server: Server) -> None:
    """
    A step whose client has left before its end counts as a transition only.
    """
    send(server, NEXT)
    server.store.held = True
    wire = server.connect()
    wire.send(NEXT)
    wire.turns()
    wire.lose()
    server.store.finish()
    wire.turns()
    assert server.committer.durable.revision == 2
    assert counted(server) == {(*COUNTED_NEXT, 200): 1}


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
