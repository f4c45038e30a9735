"""
Tests that a request gets the same response in whatever way it is handled.

Plans and recognition change no byte of a response.  Generated conversations are held with
two workers, one of which parses all requests, and the responses, the counts and the log
lines are compared.  Unlike those of L{test_fuzz}, many of the requests are recognized the
second time.

Twisted's own C{Site}, serving the Klein app, gives the same responses too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import evolve
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs

import pexservice
from pexservice.web.parameters import HEADERS, HeaderRole
from tests.labs.attacks.attacking import check_revisions, parse_responses
from tests.labs.attacks.lab import TABLE
from tests.support.chance import Chance
from tests.support.conversations import Conversation, conversation, valid_request
from tests.support.forms import amount
from tests.support.recorded import split
from tests.support.seam import SETUPS, Exchange, converse, converse_with_site, hold, serve
from tests.support.wire import Server

PEERS = (
    IPv4Address("TCP", "192.0.2.1", 1),
    IPv4Address("TCP", "10.0.0.9", 1),
    IPv4Address("TCP", "127.0.0.1", 1),
    UNIXAddress(None),
)
LOCALS = (
    IPv4Address("TCP", "127.0.0.1", 1),
    IPv6Address("TCP", "::ffff:127.0.0.1", 1),
    IPv4Address("TCP", "192.0.2.9", 1),
)

#: How many conversations two workers have.
CONVERSATIONS = 40

#: Bytes that parsers stumble over.
_BITS = (
    *(b"", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b","),
    *(b"/", b"?", b"0\r\n\r\n", b"5\r\n12345\r\n", b"\xff", b"-", b"0x", b"9" * 30),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n"),
    *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b" folded\r\n", b"%00"),
    *(b"POST /next HTTP/1.1\r\n", b"HTTP/1.0", b"HTTP/1.1"),
)


def torn(chance: Chance) -> bytes:
    """
    Return an attack with some of its bytes replaced.
    """
    sent = chance.choose([attack.sent for attack in TABLE if len(attack.sent) < 2048])
    for _ in range(chance.below(5)):
        place = chance.below(len(sent) + 1)
        sent = sent[:place] + chance.choose(_BITS) + sent[place + chance.below(20) :]
    return sent


def check(server: Server, held: Conversation, exchange: Exchange, before: int) -> None:
    """
    Check that the connection has ended, and that each step had a response.
    """
    if b"/events" in held.sent:
        return
    assert exchange.closed
    # To HEAD, the end of a response cannot be seen in its bytes.
    if b"HEAD" not in held.sent:
        responses = parse_responses(exchange.received)
        assert all(response.status != 500 for response in responses)
        check_revisions(responses, before, server.committer.durable.revision)


@pytest.mark.parametrize("setup", SETUPS)
def test_workers_with_and_without_plans_respond_log_and_count_the_same(setup: str) -> None:
    """
    Only the date may differ.  The addresses of a connection do not matter.
    """
    with_plan = without_plan = 0
    for seed in range(amount(short=8, long=500)):
        chance = Chance(seed)
        pair = [serve(setup, remembers=remembers, logs=True) for remembers in (True, False)]
        for number in range(CONVERSATIONS):
            held = conversation(CONVERSATIONS * seed + number)
            if chance.happens(0.2):
                stream = b"".join(torn(chance) for _ in range(1 + chance.below(3)))
                held = evolve(held, chunks=tuple(chance.pieces(stream, 6)))
            if b" /metrics" in held.sent:
                # The metrics count what was parsed.
                continue
            addresses = chance.choose(PEERS), chance.choose(LOCALS)
            before = pair[0].committer.durable.revision
            with capturedLogs() as events:
                exchanges = [
                    hold(
                        server.connect(*addresses),
                        held.chunks,
                        patient=held.patient,
                        ends=held.ends,
                        waits=not held.ends,
                    )
                    for server in pair
                ]
            assert exchanges[0] == exchanges[1], (held, addresses)
            check(pair[0], held, exchanges[0], before)
            assert not any("log_failure" in event for event in events), held
            for server in pair:
                server.clock.turn(0.3)
                server.shared.tick()
        fast, slow = (server.shared.counters for server in pair)
        assert [*fast.responses()] == [*slow.responses()]
        assert len({repr(server.committer.durable) for server in pair}) == 1
        assert not any(server.failures or len(server.connections) for server in pair)
        with_plan += fast.with_plan()
        without_plan += fast.without_plan
    # The comparison compares something.
    assert 4 * with_plan > without_plan


def test_requests_split_at_any_byte_get_the_same_responses() -> None:
    """
    The requests may have plans.
    """
    first_request = b"POST /next HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n"
    second_request = b"GET /current HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    stream = first_request + second_request
    servers = [Server(remembers=remembers) for remembers in (True, False)]
    for cut in range(len(stream) + 1):
        chunks = (first_request, second_request, stream[:cut], stream[cut:], second_request)
        answers = set()
        for server in servers:
            wire = server.connect()
            for chunk in filter(None, chunks):
                wire.send(chunk)
                wire.turns()
            wire.end()
            wire.turns()
            answers.add((wire.received, wire.closed))
            wire.lose()
        assert len(answers) == 1, cut
    assert servers[0].shared.counters.with_plan() > servers[0].shared.counters.without_plan


@pytest.mark.parametrize("setup", SETUPS)
def test_unknown_headers_change_nothing(setup: str) -> None:
    """
    A header that is not in the table makes no difference, in whatever place.

    This holds whether the request is recognized or parsed.
    """
    chance = Chance(0)
    for _ in range(amount(short=8, long=1000)):
        plain, more = serve(setup), serve(setup)
        request = valid_request(chance)
        if b" /metrics" in request:
            # The metrics show the processor time.
            continue
        for _ in range(5):
            name = b"x-%x" % chance.below(2**40)
            lines = request.split(b"\r\n")
            lines.insert(1 + chance.below(len(lines) - 2), name + b": " + name)
            exchanges = [
                hold(server.connect(), [sent], patient=True, ends=False)
                for server, sent in ((plain, request), (more, b"\r\n".join(lines)))
            ]
            assert exchanges[0] == exchanges[1], (request, name)


#: Headers that belong to the server and its connection, not to the app.
_OF_THE_SERVER = (b"server:", b"date:", b"connection:")

#: Streams do not end, and each server counts its own metrics.
_NOT_THE_SAME = re.compile(rb"GET /events|[A-Z]+ /metrics")


def parts(received: bytes) -> list[tuple[bytes, list[bytes], bytes]]:
    """
    Return the status line, the headers in order of their names, and the body of responses.
    """
    responses = []
    for head, body in split(received):
        status_line, *headers = head.split(b"\r\n")
        kept = [
            header for header in headers if not header.lower().startswith(_OF_THE_SERVER)
        ]
        responses.append((status_line, sorted(kept), body))
    return responses


@pytest.mark.parametrize("setup", SETUPS)
def test_valid_requests_get_the_responses_of_twisted_site(setup: str) -> None:
    """
    To requests that any parser accepts, both servers give the same responses.
    """
    for seed in range(amount(short=25, long=3000)):
        chance = Chance(seed)
        few = [valid_request(chance) for _ in range(1 + chance.below(3))]
        requests = [chance.choose(few) for _ in range(1 + chance.below(5))]
        requests = [request for request in requests if not _NOT_THE_SAME.match(request)]
        ours = converse(setup, requests, patient=True, ends=False).received
        theirs = converse_with_site(setup, requests)
        assert parts(ours) == parts(theirs), (seed, requests)


SOURCES = Path(pexservice.__file__).parent


def test_only_one_module_reads_headers() -> None:
    """
    So no response depends on a header that is not in the table of this module.
    """
    reads_a_header = re.compile(
        r"(?<!headers_of\(request)\.requestHeaders|\bget(Header|AllHeaders|Cookie)\b"
    )
    for path in (*(SOURCES / "web").rglob("*.py"), *(SOURCES / "server").rglob("*.py")):
        assert not reads_a_header.search(path.read_text()), path


def test_each_deciding_header_has_a_function_for_its_meaning() -> None:
    deciding = {name for name, use in HEADERS.items() if use & HeaderRole.DECIDES}
    assert set(Server().checker.deciding_headers()) == deciding
