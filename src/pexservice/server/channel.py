"""
Twisted's HTTP channel, stricter.

Twisted parses; this module decides what of it is a request.  It answers what Twisted
drops without a word (a long request line, a large header section), refuses what
RFC 9112 says to refuse and Twisted lets pass (no C{Host}, two of them, control
characters, a coding that nobody else knows).

What is refused here may have left the two sides with different ideas of where the
next request begins.  So the answer is the connection's last, and the rest of what
the client sends is read and dropped for a moment: closing at once would reset the
connection, and a reset may overtake the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from twisted.internet.interfaces import (
    IDelayedCall,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.http_headers import Headers

from pexservice.server.fast_path import Hot
from pexservice.server.interfaces import IConnection, ISite, Phase
from pexservice.server.plan_cache import LARGEST_CHUNK
from pexservice.server.request import LARGEST_BODY, PexRequest
from pexservice.web import problems
from pexservice.web.meaning import meaning_of
from pexservice.web.problems import Problem
from pexservice.web.replies import Header, Reply, accepts_json

#: The longest request line, and the largest header section.  Bytes.
LONGEST_REQUEST_LINE = 8192
LARGEST_HEADERS = 16384
MOST_HEADERS = 100

#: The statuses of refusals that are a request's own fault, and count against its
#: client's rate.
_FAULTS_OF_REQUESTS = (400, 413, 414, 431)

#: How long the rest of a refused request is read.  Seconds.
LINGER = 2

#: RFC 3986's host and port, as far as its characters go.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")

#: What no header value may contain: all controls but the tab.
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

#: What no request line contains and Twisted lets pass.
_NOT_ASCII = re.compile(rb"[\x7f-\xff]")

#: A line of the trailers, which Twisted keeps and does not look at.
_TRAILER = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class PexChannel(HTTPChannel):
    """
    The parser of one connection, for all that the memo does not know.
    """

    site: ISite
    transport: ITCPTransport
    requestFactory = PexRequest
    maxHeaders = MOST_HEADERS
    # The longest line, which is a header of the largest size or a request line.
    MAX_LENGTH = LARGEST_HEADERS

    _half_closed = False
    _header_lines = 0

    # An empty line was passed over, so the next request has begun: Twisted takes no
    # second one, and the memo knows nothing of the first.
    _empty_line = False

    # Set between two requests of a pipeline; see requestDone.
    _next_request: IDelayedCall | None = None

    # The requests that the chunk of bytes at hand has completed.
    _completed: tuple[PexRequest, ...] = ()

    def __init__(self, connection: IConnection, hot: Hot) -> None:
        """
        @param connection: the protocol that has the transport and its events.
        """
        super().__init__()
        self._connection = connection
        self._hot = hot

    @property
    def _over(self) -> bool:
        """
        Whether the connection's last answer was given.
        """
        return self._connection.phase in (Phase.DRAINING, Phase.CLOSED)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{IProtocol.connectionLost}.
        """
        if self._next_request is not None:
            self._next_request.cancel()
            self._next_request = None
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        """
        The client will send no more, but may wait for answers.
        """
        self._half_closed = True
        # What has no end of its own, a stream of events, ends here: whoever closes one
        # most often does not wait for any more of it.
        self.stopProducing()
        if self._over or not (self._handlingRequest or self.paused):
            self.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """
        See L{IProtocol.dataReceived}.
        """
        if self._over:
            return
        connection = self._connection
        # At rest, so that what comes now is the beginning of a request.
        alone = connection.phase is Phase.IDLE and len(data) <= LARGEST_CHUNK
        connection.phase = Phase.RECEIVING
        self._completed = ()
        super().dataReceived(data)
        if self._over:
            connection.receiving_since = 0.0
        elif self._waits_for_a_request():
            connection.phase = Phase.IDLE
        elif self._handlingRequest or self.paused:
            connection.phase = Phase.ANSWERING
        elif not connection.receiving_since:
            connection.receiving_since = self._hot.seconds()
        if alone and len(self._completed) == 1 and not (self._buffer or self._dataBuffer):
            self._remember(data, self._completed[0])

    def _remember(self, chunk: bytes, request: PexRequest) -> None:
        """
        C{request} came alone in C{chunk}: have it answered without parsing the next
        time, if what it means follows from its bytes only.
        """
        meaning, headers = meaning_of(request), request.requestHeaders
        if (
            meaning is None
            # Something is sent before the answer.
            or headers.hasHeader(b"expect")
            or headers.hasHeader(b"transfer-encoding")
            or request.body_size
            # What goes wrong would have to be said in JSON.
            or accepts_json(headers.getRawHeaders(b"accept"))
        ):
            return
        connection = request.responseHeaders.getRawHeaders(b"connection", [None])
        self._hot.learn(
            chunk,
            meaning,
            request.method,
            request.clientproto,
            connection[-1],
            not self.persistent,
            host=headers.getRawHeaders(b"host", [None])[0],
            forwarded=request.forwarded(),
        )

    def _waits_for_a_request(self) -> bool:
        return not (self.requests or self._buffer or self._empty_line)

    def lineReceived(self, line: bytes) -> None:
        """
        A line of the request's head.
        """
        if self._over:
            return
        if self._receivedHeaderSize == 0:
            self._empty_line = not line
            if len(line) > LONGEST_REQUEST_LINE:
                self.refuse(problems.too_long_target(LONGEST_REQUEST_LINE))
                return
            if _NOT_ASCII.search(line):
                self.refuse(problems.malformed("a request line is plain ASCII"))
                return
            # Twisted counts the request line too.
            self.totalHeadersSize = len(line) + LARGEST_HEADERS
            self._header_lines = 0
        else:
            # Twisted does not count the lines of a folded header.
            self._header_lines += bool(line)
            if self._header_lines > MOST_HEADERS:
                self.refuse(problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS))
                return
        beginning = self._receivedHeaderSize == 0
        super().lineReceived(line)
        if beginning and self.requests and not self._over:
            # For the access log, should the rest of it be refused.
            request = self.requests[-1]
            request.method, request.uri = self._command, self._path
            request.clientproto = self._version

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        A line has not ended in as many bytes as the longest may have.
        """
        if self._receivedHeaderSize == 0:
            self.refuse(problems.too_long_target(LONGEST_REQUEST_LINE))
        else:
            self.refuse(problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS))

    def headerReceived(self, line: bytes) -> bool:
        """
        One header, maybe of several lines.
        """
        if self._over:
            return False
        _, _, value = line.partition(b":")
        if _CONTROLS.search(value):
            self.refuse(problems.malformed("a header has a control character in it"))
            return False
        try:
            taken: bool = super().headerReceived(line)
        except ValueError:
            # A Content-Length of more digits than Python reads.
            self.refuse(problems.too_much_content(LARGEST_BODY))
            return False
        return taken

    def allHeadersReceived(self) -> None:
        """
        The head is complete.
        """
        if self._over:
            return
        problem = self._flaw()
        if problem is None:
            super().allHeadersReceived()
        else:
            self.refuse(problem)

    def _flaw(self) -> Problem | None:
        headers = self.requests[-1].requestHeaders
        hosts = headers.getRawHeaders(b"host", [])
        if len(hosts) > 1 or (not hosts and self._version == b"HTTP/1.1"):
            return problems.malformed("a request has one Host header")
        if hosts and not _HOST.fullmatch(hosts[0]):
            return problems.malformed("the Host header is not a host")
        coding = self._flaw_of_the_coding(headers)
        if coding is not None:
            return problems.malformed(coding)
        if self.length is not None and self.length > LARGEST_BODY:
            return problems.too_much_content(LARGEST_BODY)
        return None

    def _flaw_of_the_coding(self, headers: Headers) -> str | None:
        coding = headers.getRawHeaders(b"transfer-encoding", [])
        if not coding:
            return None
        if [each.lower() for each in coding] != [b"chunked"]:
            # "identity" too: nobody else knows it, and would see another request's end.
            return "the one Transfer-Encoding is chunked"
        if self._version == b"HTTP/1.0":
            return "HTTP/1.0 has no Transfer-Encoding"
        # With a Content-Length besides, Twisted refuses it.
        return None

    def allContentReceived(self) -> None:
        """
        The request is complete.
        """
        if self._over:
            return
        trailers = getattr(self._transferDecoder, "_trailerHeaders", ())
        if all(map(_TRAILER.fullmatch, trailers)):
            self._connection.receiving_since = 0.0
            self._completed += (self.requests[-1],)
            super().allContentReceived()
        else:
            # Somebody else may have seen the end of the body before them.
            self.refuse(problems.malformed("the trailers are not headers"))

    def rawDataReceived(self, data: bytes) -> None:
        """
        Some of a body, or what comes after the request that is being answered.
        """
        if not self._over:
            super().rawDataReceived(data)

    def checkPersistence(self, request: PexRequest, version: bytes) -> bool:
        """
        May the connection be used again?  An answer always has its length, so also
        one of HTTP/1.0 if the client asks for it.
        """
        tokens = {
            token.strip().lower()
            for value in request.requestHeaders.getRawHeaders(b"connection", [])
            for token in value.split(b",")
        }
        if version == b"HTTP/1.1":
            persistent = b"close" not in tokens
        else:
            persistent = b"keep-alive" in tokens
        if not persistent:
            request.setHeader(b"Connection", b"close")
        elif version != b"HTTP/1.1":
            request.setHeader(b"Connection", b"keep-alive")
        return persistent

    def requestDone(self, request: PexRequest) -> None:
        """
        A request is answered.
        """
        connection = self._connection
        connection.answered = True
        self._hot.requests.parsed(request.path, request.method, request.code)
        if self.persistent and (self._buffer or self._dataBuffer):
            # The next request is here already.  It waits for the next turn of the
            # reactor, so that others get theirs, and for the client to have taken
            # the answers, so that they do not pile up.
            self.paused = True
        super().requestDone(request)
        if self.paused:
            self._networkProducer.pauseProducing()
            self._take_up()
        if self._waits_for_a_request() and not self._over:
            connection.phase = Phase.IDLE
            connection.last_active = self._hot.seconds()
            parting = self._half_closed or self._hot.connections.parting
            if parting and self.persistent:
                self.loseConnection()

    def _take_up(self) -> None:
        """
        Go on with a pipeline, in the next turn, if the client takes answers.
        """
        if self.paused and self._next_request is None and not self._waitingForTransport:
            self._next_request = self.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._next_request = None
        if self._waitingForTransport:
            return
        self.paused = False
        self._networkProducer.resumeProducing()
        self.dataReceived(b"")
        if self._half_closed and not (self._handlingRequest or self.paused):
            self.loseConnection()

    def pauseProducing(self) -> None:
        """
        The client does not take what is sent.
        """
        connection = self._connection
        connection.blocked_since = connection.blocked_since or self._hot.seconds()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """
        The client has taken what was sent.
        """
        self._connection.blocked_since = 0.0
        super().resumeProducing()
        if self.paused:
            self._networkProducer.pauseProducing()
            self._take_up()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """
        Twisted could not parse it.  What it was shows in what was counted.
        """
        if (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        ):
            self.refuse(problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS))
        else:
            self.refuse(problems.malformed("this is not a request as HTTP/1.1 has them"))

    def refuse(self, problem: Problem) -> None:
        """
        Answer C{problem}, and nothing more on this connection.
        """
        if self._over:
            return
        self._connection.phase = Phase.DRAINING
        # If its first line was not read either, it stands for a request.
        request = self.requests[-1] if self.requests else PexRequest(self)
        limit = self._hot.limit
        if limit is not None and problem.status in _FAULTS_OF_REQUESTS:
            address = self.site.address_of_client(self.getPeer(), request.forwarded())
            if not limit.take(address):
                problem = problems.too_many_requests(limit.rate)
        headers = request.requestHeaders
        reply = problem.reply(headers.getRawHeaders(b"accept"))
        told = self._hot.pages.answer_headers(headers.getRawHeaders(b"origin", []))
        body = b"" if request.method == b"HEAD" else reply.body
        self.transport.write(_head(reply, told) + body)
        self._hot.requests.refused(reply.status)
        request.code, request.sentLength = reply.status, len(body)
        self.site.log(request)
        if ITCPTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
            self.setTimeout(LINGER)
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """
        Close the connection when all was sent.
        """
        connection = self._connection
        connection.phase = Phase.DRAINING
        # If the client does not take it, that is as bad as any other stall.
        connection.blocked_since = connection.blocked_since or self._hot.seconds()
        super().loseConnection()

    def timeoutConnection(self) -> None:
        """
        The client of a refused request still sends.
        """
        self.setTimeout(None)
        self.transport.abortConnection()


def _head(reply: Reply, told: Sequence[Header]) -> bytes:
    """
    Return the head of a connection's last answer.

    @param told: what every answer tells a browser.
    """
    head = [b"HTTP/1.1 %d %b" % (reply.status, reply.phrase)]
    head += [b"%b: %b" % header for header in (*told, *reply.headers)]
    head += [
        b"Date: " + datetimeToString(),
        b"Content-Length: %d" % len(reply.body),
        b"Connection: close",
    ]
    return b"\r\n".join([*head, b"", b""])
