"""
Tests of the parser: heads, bodies, and the limits on both.
"""

from __future__ import annotations

import time

import pytest
from twisted.internet.address import IPv4Address

from pexservice.server.parser import (
    CHUNKED,
    MAX_PARTS_PER_CALL,
    Head,
    HeadReader,
    RequestBody,
    find_head,
    read_refused_head,
)
from pexservice.web.problems import Problem
from tests.labs.attacks.attacking import (
    Attack,
    check_responses,
    check_revisions,
    in_one_piece,
    parse_responses,
)
from tests.labs.attacks.lab import COMPLETE
from tests.support.wire import Server

LINE = b"POST /next?x=1 HTTP/1.1"
HOST = b"Host: h"


def reader() -> HeadReader:
    """
    Return a reader with empty caches.
    """
    return HeadReader(Server().checker.deciding_headers())


def read(*lines: bytes) -> Head:
    """
    Return the head that consists of these lines.
    """
    return reader().read(b"\r\n".join(lines))


@pytest.mark.parametrize("attack", COMPLETE, ids=lambda attack: attack.name)
def test_every_attack_gets_the_response_of_its_rule(attack: Attack) -> None:
    """
    The cursor moves as often as the responses say.
    """
    server, loopback = Server(), IPv4Address("TCP", "127.0.0.1", 1)
    wire = server.connect(loopback, loopback)
    wire.send(*in_one_piece(attack))
    if attack.half_closes:
        wire.end()
    # One of them is a pipeline of a hundred steps.
    wire.turns(1000)
    assert wire.closed
    responses = parse_responses(wire.received, bodiless=attack.sent.startswith(b"HEAD "))
    check_responses(attack, responses)
    revision = server.committer.durable.revision
    check_revisions(responses, 0, revision)
    assert revision == attack.steps + (not attack.closes)


def test_head_has_the_request_line_and_the_arguments() -> None:
    """
    Blanks around a value are removed, and names are in small letters.
    """
    head = read(LINE, HOST, b"IDEMPOTENCY-KEY:\t k \t", b"X-Unknown: y")
    assert head.request_line.method == b"POST"
    assert (head.request_line.target, head.request_line.path) == (b"/next?x=1", b"/next")
    assert head.headers == {b"host": [b"h"], b"idempotency-key": [b"k"]}
    assert (head.body_length, head.expects_continue) == (0, False)


def test_http_1_0_request_without_host_has_the_host_of_its_target() -> None:
    assert read(b"GET http://h HTTP/1.0").headers == {b"host": [b"h"]}
    assert read(b"GET / HTTP/1.0").headers == {}


def test_reader_returns_the_indices_of_uncached_lines() -> None:
    """
    A cached request line is not accepted as a header line, nor the reverse.
    """
    head_reader = reader()
    head = b"\r\n".join([LINE, HOST, b"A: 1"])
    assert head_reader.read(head).uncached == [0, 1, 2]
    assert head_reader.read(head).uncached == []
    mixed = [LINE, b"B: 1", HOST, b"B: 2", b"A: 1"]
    assert head_reader.read(b"\r\n".join(mixed)).uncached == [1, 3]
    secret = b"\r\n".join([LINE, HOST, b"Authorization: Bearer x", b"A: 1"])
    assert [head_reader.read(secret).uncached for _ in range(2)] == [[2]] * 2
    for wrong in (b"\r\n".join([LINE, HOST, LINE]), b"\r\n".join([HOST, HOST])):
        with pytest.raises(Problem):
            head_reader.read(wrong)


@pytest.mark.parametrize(
    ("buffer", "status"),
    [
        (b"\x16\x03\x01", 400),
        (b"\r\n\r\n", 400),
        (b" GET", 400),
        (b"GET /" + b"x" * 8200, 414),
        (b"GET / HTTP/1.1\r\n" + b"x" * 16400, 431),
        (b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 5000, 431),
    ],
)
def test_incomplete_head_is_refused_as_soon_as_it_can_be(
    buffer: bytes, status: int
) -> None:
    """
    If no request begins with the first byte, as in a TLS handshake, this byte is enough.
    """
    with pytest.raises(Problem) as caught:
        find_head(bytearray(buffer), 0)
    assert caught.value.status == status


def test_readable_lines_of_a_refused_head_shape_its_refusal() -> None:
    """
    Malformed lines are skipped.
    """
    head = b"HEAD / HTTP/1.1\r\nbad\r\nAccept: a/b \r\n\xff\r\nX: y\r\nOrigin: http://a\r\n\r\n"
    assert read_refused_head(head) == (
        b"HEAD",
        b"HEAD / HTTP/1.1",
        {b"accept": [b"a/b"], b"origin": [b"http://a"]},
    )
    head = b"bad\r\n\r\nX-Forwarded-For: 10.0.0.1\r\n"
    assert read_refused_head(head) == (b"", b"- - -", {})


BODIES = {
    "chunks": b"5\r\n12345\r\n0\r\n\r\n",
    "a chunk extension": b'5;a="b;c"\r\n12345\r\n00\r\n\r\n',
    "trailers": b"1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n",
    "capital digits": b"A\r\n1234567890\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunked_body_ends_at_the_same_byte_however_it_arrives(
    body: bytes, size: int
) -> None:
    sent, buffer, taken = body + b"REST", bytearray(), RequestBody(CHUNKED)
    for begin in range(0, len(sent), size):
        buffer += sent[begin : begin + size]
        if not taken.complete:
            taken.skip(buffer)
    assert taken.complete
    assert bytes(buffer) == b"REST"


def test_one_call_skips_a_bounded_number_of_chunks() -> None:
    """
    So a connection with tiny chunks takes a bounded part of an iteration.
    """
    chunk = b"1\r\nx\r\n"
    buffer, taken = bytearray(chunk * 900), RequestBody(CHUNKED)
    taken.skip(buffer)
    assert len(chunk * 900) - len(buffer) <= MAX_PARTS_PER_CALL * len(chunk)
    assert len(buffer) < len(chunk * 900)


def test_chunk_with_a_long_extension_is_refused_for_its_length() -> None:
    with pytest.raises(Problem, match="send no extensions"):
        RequestBody(CHUNKED).skip(bytearray(b"5;" + b"a" * 100_000))


def seconds_for(size: int) -> float:
    """
    Return the CPU time for a head that arrives in single bytes.
    """
    begin = time.process_time()
    buffer, searched = bytearray(), 0
    for byte in b"GET / HTTP/1.1\r\n" + b"a:" + b"b" * size:
        buffer.append(byte)
        find_head(buffer, searched)
        searched = len(buffer)
    return time.process_time() - begin


def test_head_in_single_bytes_takes_linear_time() -> None:
    """
    Twice the size takes about twice the time; quadratic time would take four times.
    """
    assert any(seconds_for(8000) / seconds_for(4000) < 3.2 for _ in range(20))
