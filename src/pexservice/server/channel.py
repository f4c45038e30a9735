"""
The HTTP channel of a connection, for requests that the plan cache does not know.

After input that is refused before it is a request, the two sides may have different ideas
of where the next request begins.  So the answer is the connection's last, and the rest of
the client's input is read and dropped for a moment: closing at once would reset the
connection, and a reset may overtake the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import cast

from twisted.internet.interfaces import IDelayedCall, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.http_headers import Headers
from twisted.web.server import Site

from pexservice.server.access_log import escaped
from pexservice.server.fast_path import FastPath
from pexservice.server.interfaces import IConnection, Phase
from pexservice.server.parser import Parser
from pexservice.server.plans import Framing
from pexservice.server.request import PexRequest
from pexservice.server.responses import head, render
from pexservice.web.parameters import (
    CONNECTION,
    FORWARDED_FOR,
    ORIGIN,
    persistence,
    preferences,
    read,
)
from pexservice.web.problems import Problem

#: How long the rest of a refused request is read.  Seconds.
LINGER = 2

_LAST = Framing(b"HTTP/1.1", b"close", last=True)

#: The refusals that are a client's own fault, and count against its rate limit.
_ITS_FAULT = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.METHOD_NOT_ALLOWED,
)


class PexChannel(Parser):
    """
    The HTTP channel of one connection, which answers the requests that have to be parsed.
    """

    transport: ITCPTransport
    requestFactory = PexRequest

    _half_closed = False

    # Set between two requests of a pipeline; see requestDone.
    _next_request: IDelayedCall | None = None

    # The requests that the chunk of bytes at hand has completed.
    _completed: tuple[PexRequest, ...] = ()

    # The head of an answer, which is sent together with what follows it.
    _head = b""

    def __init__(self, connection: IConnection, fast_path: FastPath, site: Site) -> None:
        """
        @param connection: the protocol that has the transport and its events.
        """
        super().__init__()
        self.callLater = fast_path.call_later  # type: ignore[method-assign,assignment]
        self.site = site
        self.connection = connection
        self._fast_path = fast_path

    @property
    def is_over(self) -> bool:
        """
        Return whether the connection's last answer was given.
        """
        return self.connection.phase in (Phase.DRAINING, Phase.CLOSED)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        End the channel, without the next request of a pipeline; see C{IProtocol}.
        """
        if self._next_request is not None:
            self._next_request.cancel()
            self._next_request = None
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        """
        Take a half-close: the client will send no more, but may wait for answers.
        """
        self._half_closed = True
        # A stream of events, which has no end of its own, ends here: a client that closes
        # its side most often does not wait for any more events.
        self.stopProducing()
        if self.is_over or not (self.is_answering or self.paused):
            self.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """
        Parse C{data}, and set the connection's phase by it; see C{IProtocol}.
        """
        if self.is_over:
            return
        connection = self.connection
        # The connection was at rest, so these bytes are the beginning of a request.
        alone = connection.phase is Phase.IDLE
        connection.phase = Phase.RECEIVING
        self._completed = ()
        super().dataReceived(data)
        if self.is_over:
            connection.receiving_since = 0.0
        elif self.is_between_requests:
            connection.phase = Phase.IDLE
        elif self.is_answering or self.paused:
            connection.phase = Phase.ANSWERING
        elif not connection.receiving_since:
            connection.receiving_since = self._fast_path.seconds()
        if alone and len(self._completed) == 1 and not self.has_input:
            self._learn(data, self._completed[0])

    def _learn(self, head: bytes, request: PexRequest) -> None:
        """
        Have the plan cache keep the meaning of C{request}, which came alone as C{head}.
        """
        operation = request.operation
        if operation is None:
            return
        connection = request.responseHeaders.getRawHeaders(CONNECTION, [None])[-1]
        framing = Framing(request.clientproto, connection, not self.persistent)
        self._fast_path.learn(head, operation, request.path, framing)

    def completed(self, request: Request) -> None:
        """
        Take notice that C{request} is complete, before it is answered.

        If the worker stops, the answer will be its connection's last.
        """
        if self._fast_path.connections.closing:
            self.persistent = False
            request.setHeader(CONNECTION, b"close")
        self.connection.receiving_since = 0.0
        self._completed += (cast(PexRequest, request),)

    def checkPersistence(self, request: PexRequest, version: bytes) -> bool:
        """
        Return whether the connection may be used again, and set the answer's C{Connection}.

        An answer always has its length, so a connection of HTTP/1.0 is kept alive too if
        the client asks for that.
        """
        said = persistence(read(request.requestHeaders).get(CONNECTION, ()))
        persistent = said.keeps if version == b"HTTP/1.0" else not said.closes
        if not persistent:
            request.setHeader(CONNECTION, b"close")
        elif version != b"HTTP/1.1":
            request.setHeader(CONNECTION, b"keep-alive")
        return persistent

    # Answers.

    def writeHeaders(
        self, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> None:
        """
        Keep the head of an answer until the next write.

        So one call sends the head and what follows it, and a client never has the one
        without the other.
        """
        connection, others = None, []
        for name, values in headers.getAllRawHeaders():
            if name == b"Connection":
                connection = values[-1]
            else:
                others += [(name, value) for value in values]
        self._head = head(version, code, reason, connection, others)

    def write(self, data: bytes) -> None:
        """
        Send a part of an answer, after the head if that was not sent yet.
        """
        begin, self._head = self._head, b""
        self.transport.write(begin + data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """
        Send a part of an answer that is sent in chunks.
        """
        self.write(b"".join(iovec))

    def requestDone(self, request: PexRequest) -> None:
        """
        Count and log a complete answer, and go on with the connection.
        """
        if self._head:
            self.write(b"")
        connection = self.connection
        connection.answered = True
        fast_path = self._fast_path
        fast_path.requests.parsed(request.path, request.method, request.code)
        if fast_path.log is not None:
            line = b" ".join((request.method, request.uri, request.clientproto))
            arguments = read(request.requestHeaders)
            fast_path.tell(
                self.connection, arguments, escaped(line), request.code, request.sentLength
            )
        if self.persistent and self.has_input:
            # The next request is here already.  It waits for the next turn of the
            # reactor, so that other connections get theirs, and for the client to
            # have taken the answers, so that these do not pile up.
            self.paused = True
        super().requestDone(request)
        if self.paused:
            self.pause_reading()
            self._take_up()
        if self.is_between_requests and not self.is_over:
            connection.phase = Phase.IDLE
            connection.last_active = self._fast_path.seconds()
            parting = self._half_closed or self._fast_path.connections.parting
            if parting and self.persistent:
                self.loseConnection()

    def _take_up(self) -> None:
        """
        Go on with a pipeline, in the next turn, if the client takes answers.
        """
        if self.paused and self._next_request is None and not self.is_blocked:
            self._next_request = self.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._next_request = None
        if self.is_blocked:
            return
        self.paused = False
        self.resume_reading()
        self.dataReceived(b"")
        if self._half_closed and not (self.is_answering or self.paused):
            self.loseConnection()

    def pauseProducing(self) -> None:
        """
        Record that the client does not take what is sent.
        """
        connection = self.connection
        connection.blocked_since = connection.blocked_since or self._fast_path.seconds()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """
        Record that the client has taken what was sent, and go on with a pipeline.
        """
        self.connection.blocked_since = 0.0
        super().resumeProducing()
        if self.paused:
            self.pause_reading()
            self._take_up()

    def refuse(self, problem: Problem) -> None:
        """
        Answer C{problem}, and nothing more on this connection.
        """
        if self.is_over:
            return
        fast_path, arguments = self._fast_path, self.arguments()
        performer = fast_path.performer
        if problem.status in _ITS_FAULT:
            charged = performer.charge(self.connection, arguments.get(FORWARDED_FOR))
            problem = charged or problem
        self.connection.phase = Phase.DRAINING
        fast_path.requests.refused(problem.status)
        headers = performer.browser_headers(arguments.get(ORIGIN, ()))
        reply = problem.reply(preferences(arguments).problem)
        self.transport.write(render(_LAST, headers, reply, bodiless=self.is_head))
        length = 0 if self.is_head else len(reply.body)
        line = escaped(self.line or b"- - -")
        fast_path.tell(self.connection, arguments, line, problem.status, length)
        if ITCPTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
            self.setTimeout(LINGER)
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """
        Close the connection when everything was sent.
        """
        connection = self.connection
        connection.phase = Phase.DRAINING
        # A client that does not take the rest has stalled, as in any other phase.
        connection.blocked_since = connection.blocked_since or self._fast_path.seconds()
        super().loseConnection()

    def timeoutConnection(self) -> None:
        """
        Abort the connection: the client of a refused request still sends.
        """
        self.setTimeout(None)
        self.transport.abortConnection()
