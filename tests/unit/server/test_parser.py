"""
Tests that the private names of Twisted that the parser leans on still mean the same.

These tests are the first to fail on a version of Twisted that has changed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel, Request, _ChunkedTransferDecoder

import twisted
from pexservice.server.parser import (
    LARGEST_BODY,
    LARGEST_HEADERS,
    LONGEST_REQUEST_LINE,
    Parser,
)
from pexservice.server.plain_heads import MOST_HEADERS
from pexservice.web.parameters import HOST
from pexservice.web.problems import Problem

VERSION = f"Twisted {twisted.__version__}"

HEAD = b"POST /next HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Left(Request):
    """
    A request that is left unanswered until a test finishes it.
    """

    def process(self) -> None:
        """
        Do nothing.
        """


class Recording(Parser):
    """
    A parser that keeps the statuses of its refusals and the requests that were completed.
    """

    requestFactory = Left

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[int] = []
        self.complete: list[Request] = []

    @property
    def is_over(self) -> bool:
        """
        Return whether a request was refused.
        """
        return bool(self.refused)

    def refuse(self, problem: Problem) -> None:
        """
        Keep the status.
        """
        self.refused.append(problem.status.value)

    def completed(self, request: Request) -> None:
        """
        Keep the request.
        """
        self.complete.append(request)


@pytest.fixture
def wire() -> StringTransport:
    """
    Return the transport of a connection.
    """
    return StringTransport()


@pytest.fixture
def parser(wire: StringTransport) -> Iterator[Recording]:
    """
    Yield a parser on a connection.
    """
    parser = Recording()
    parser.makeConnection(wire)
    yield parser
    for request in parser.requests:
        if request.content is not None:
            request.content.close()


NAMES = [
    *("_buffer", "_dataBuffer", "_handlingRequest", "_networkProducer"),
    *("_receivedHeaderCount", "_receivedHeaderSize", "_respondToBadRequestAndDisconnect"),
    *("_send100Continue", "_transferDecoder", "_waitingForTransport"),
    *("length", "maxHeaders", "requests", "totalHeadersSize"),
]


@pytest.mark.parametrize("name", NAMES)
def test_twisted_has_the_names(name: str) -> None:
    """
    Each private name that the parser reads or overrides exists on a new channel.
    """
    channel = HTTPChannel()
    channel.makeConnection(StringTransport())
    assert hasattr(channel, name), f"{VERSION} has no HTTPChannel.{name}"


@pytest.mark.parametrize("name", ["_maxTrailerHeadersSize", "_trailerHeaders", "state"])
def test_twisted_has_the_decoders_names(name: str) -> None:
    """
    Each private name that the parser reads of the chunk decoder exists.

    The parser would not notice that a name is gone.
    """
    decoder = _ChunkedTransferDecoder(lambda _: None, lambda _: None)
    assert hasattr(decoder, name), f"{VERSION} has no _ChunkedTransferDecoder.{name}"


def test_a_request_from_its_first_byte_to_its_answer(parser: Recording) -> None:
    """
    The properties follow a request through all its states.
    """
    assert parser.is_between_requests
    assert not parser.has_input
    assert not parser.is_answering
    assert (parser.line, parser.is_head, parser.arguments()) == (b"", False, {})

    parser.dataReceived(b"HEAD /current HT")
    assert parser.has_input
    assert not parser.is_between_requests
    assert not parser.is_answering

    parser.dataReceived(b"TP/1.1\r\nHost: localhost\r\nAccept: */*\r\n")
    assert (parser.line, parser.is_head) == (b"HEAD /current HTTP/1.1", True)
    assert not parser.is_between_requests
    assert not parser.is_answering

    parser.dataReceived(b"\r\n")
    (request,) = parser.complete
    assert parser.is_answering
    assert parser.arguments()[HOST] == [b"localhost"]
    assert not parser.is_between_requests
    assert not parser.has_input

    parser.dataReceived(b"GET /next")
    assert parser.has_input

    request.finish()
    assert not parser.is_answering
    assert not parser.is_between_requests
    assert parser.has_input


def test_an_empty_line_begins_a_request(parser: Recording) -> None:
    """
    An empty line may come before a request, and with it the connection no longer rests.
    """
    parser.dataReceived(b"\r\n")
    assert not parser.is_between_requests


def test_a_client_that_does_not_take_its_answers(parser: Recording) -> None:
    """
    C{is_blocked} follows the transport's last call.
    """
    assert not parser.is_blocked
    parser.pauseProducing()
    assert parser.is_blocked
    parser.resumeProducing()
    assert not parser.is_blocked


def test_reading_is_paused_at_the_transport(
    parser: Recording, wire: StringTransport
) -> None:
    """
    The transport itself holds the client back.
    """
    parser.pause_reading()
    assert wire.producerState == "paused"
    parser.resume_reading()
    assert wire.producerState == "producing"


def _lines(size: int) -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (index, b"x" * 1000) for index in range(size // 1000))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /%s HTTP/1.1\r\n" % (b"a" * LONGEST_REQUEST_LINE), 414),
        (b"GET /" + b"a" * LARGEST_HEADERS * 2, 414),
        (HEAD + b"X: " + b"a" * LARGEST_HEADERS * 2, 431),
        (HEAD + _lines(LARGEST_HEADERS + 1000) + b"\r\n", 431),
        (HEAD + b"X: y\r\n" * MOST_HEADERS + b"\r\n", 431),
        (HEAD + b"X: y\r\n" + b" z\r\n" * MOST_HEADERS + b"\r\n", 431),
        (HEAD + b"no header\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (LARGEST_BODY + 1), 413),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (CHUNKED + b"%x\r\n" % (LARGEST_BODY + 1), 413),
        (CHUNKED + b"no size\r\n", 400),
        (CHUNKED + b"0\r\nno trailer\r\n\r\n", 400),
        (CHUNKED + b"0\r\n" + _lines(LARGEST_HEADERS + 1000) + b"\r\n", 431),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * (MOST_HEADERS + 1) + b"\r\n", 431),
    ],
)
def test_twisted_hands_over_refused_requests(
    parser: Recording, wire: StringTransport, sent: bytes, status: int
) -> None:
    """
    A request that Twisted would drop or answer comes to C{refuse}, once, with its status.
    """
    parser.dataReceived(sent)
    assert parser.refused == [status]
    assert parser.complete == []
    assert wire.value() == b""


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"\r\n",
        HEAD + b"Content-Length: 5\r\n\r\n12345",
        CHUNKED + b"5\r\n12345\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nX: y\r\n\r\n",
        HEAD + b"X: y\r\n" * (MOST_HEADERS - 1) + b"\r\n",
    ],
)
def test_a_whole_request_is_completed(parser: Recording, sent: bytes) -> None:
    """
    A request is completed once, with its last byte and not before.
    """
    parser.dataReceived(sent[:-1])
    assert parser.complete == []
    parser.dataReceived(sent[-1:])
    assert (len(parser.complete), parser.refused) == (1, [])
    assert parser.is_answering


@pytest.mark.parametrize(("length", "asked"), [(b"0", b""), (b"5", b"HTTP/1.1 100 Cont")])
def test_a_body_is_asked_for_where_there_is_one(
    parser: Recording, wire: StringTransport, length: bytes, asked: bytes
) -> None:
    """
    Twisted sends 100 for a request with a body, and by C{_send100Continue} alone.
    """
    parser.dataReceived(
        HEAD + b"Expect: 100-continue\r\nContent-Length: " + length + b"\r\n\r\n"
    )
    assert wire.value()[: len(b"HTTP/1.1 100 Cont")] == asked


@pytest.mark.parametrize(
    "override",
    [
        Parser.lineReceived,
        Parser.lineLengthExceeded,
        Parser.headerReceived,
        Parser.allHeadersReceived,
        Parser.allContentReceived,
        Parser.rawDataReceived,
    ],
)
def test_twisted_has_the_overridden_methods(override: Callable[..., object]) -> None:
    """
    Twisted has each method that the parser overrides.

    Under another name the method would never be called.
    """
    assert override.__name__ in vars(HTTPChannel) | vars(HTTPChannel.__mro__[1])
