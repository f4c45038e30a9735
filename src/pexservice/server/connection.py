"""
The protocol of a connection: what the plan cache knows is answered here, all else by an
HTTP channel.

Most connections never need a channel.  One that does keeps it for the rest of its
life, and the two take turns: a request that the cache knows is answered here when
nothing is under way on the connection, so answers keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.commit.requests import Result
from pexservice.server import acknowledged_bytes
from pexservice.server.channel import PexChannel
from pexservice.server.fast_path import FastPath
from pexservice.server.interfaces import IConnection, Phase
from pexservice.server.limits import REQUEST_TIMEOUT, Admission
from pexservice.server.plans import Recognized, Shape
from pexservice.web.clients import Caller
from pexservice.web.operations import Answer, ISender, kind_of, log_bug, problem_of
from pexservice.web.problems import internal_error, too_many_connections, too_slow
from pexservice.web.representations import VALUE

# Names of our own cost a third of what asking an enumeration does.
_IDLE, _ANSWERING = Phase.IDLE, Phase.ANSWERING
_APPLIED = Result.APPLIED
_OK = HTTPStatus.OK

#: The end of a head.
_END = b"\r\n\r\n"


class Transport(ITransport, IConsumer, IPushProducer):
    """
    What a connection needs of one.
    """


@implementer(IConnection, ISender, IHalfCloseableProtocol, IPushProducer)
class Connection(Protocol):
    """
    The protocol of a connection, on whatever transport.

    @ivar shapes: of the heads that came on it.
    @ivar admission: the answer of the table of connections, once that was asked.
    """

    transport: Transport

    def __init__(
        self, fast_path: FastPath, make_channel: Callable[[Connection], PexChannel]
    ) -> None:
        """
        @param make_channel: makes what parses the requests of a connection.
        """
        # All that a request uses is set here: Python finds what an instance has from the
        # beginning in a third of the time.
        self.fast_path = fast_path
        self.phase = _IDLE
        self.admission: Admission | None = None
        self.answered = False
        self.last_active = fast_path.seconds()
        self.receiving_since = 0.0
        self.blocked_since = 0.0
        self.shapes: tuple[Shape, ...] = ()
        self.channel: PexChannel | None = None
        self._make_channel = make_channel
        # The request that is performed here.
        self._request: Recognized | None = None
        # What came while it was.
        self._queued: bytes | None = None
        self._half_closed = False

    @cached_property
    def caller(self) -> Caller:
        """
        Where its requests come from.
        """
        transport, clients = self.transport, self.fast_path.performer.clients
        return clients.caller(transport.getPeer(), transport.getHost())

    def connectionMade(self) -> None:
        """
        See C{IProtocol.connectionMade}.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, streaming=True)
        self.write = self.transport.write
        # Until now it may have agreed on TLS.
        self.phase, self.receiving_since = _IDLE, 0.0
        self.last_active = self.fast_path.seconds()
        if self.admission is None:
            self.admit(getattr(self.transport.getPeer(), "host", None))
        if self.admission is Admission.REFUSED:
            limit = self.fast_path.connections.limit
            self._take_channel().refuse(too_many_connections(limit))
        elif self.admission is Admission.DROPPED:
            self.abort()

    def admit(self, host: str | None) -> Admission:
        """
        Ask for a place among the connections.

        @param host: the address of the other end, if it has one.
        """
        fast_path = self.fast_path
        holder = fast_path.performer.clients.holder(host)
        self.admission = admission = fast_path.connections.admit(self, holder)
        return admission

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See C{IProtocol.connectionLost}.
        """
        self.connected = 0
        self.phase = Phase.CLOSED
        self._request = self._queued = None
        self.fast_path.connections.leave(self)
        if self.channel is not None:
            self.channel.connectionLost(reason)

    def _take_channel(self) -> PexChannel:
        """
        Have all that the cache does not know handled by a channel from now on, and
        the transport's wishes as a producer too.
        """
        self.transport.unregisterProducer()
        self.channel = channel = self._make_channel(self)
        channel.makeConnection(self.transport)
        if self.blocked_since:
            channel.pauseProducing()
        return channel

    def dataReceived(self, data: bytes) -> None:
        """
        See C{IProtocol.dataReceived}.
        """
        if self.phase is _IDLE:
            cache = self.fast_path.cache
            request = cache.exact.get(data) or cache.recognize(data, self)
            if request is not None:
                self.perform(request)
                return
        if self._request is None:
            (self.channel or self._take_channel()).dataReceived(data)
        else:
            # It has to wait for its turn, and the client with what comes after it.
            self._queued = (self._queued or b"") + data
            self.transport.pauseProducing()

    def perform(self, request: Recognized) -> None:
        """
        Answer a request that was recognized while the connection was idle.
        """
        self.phase = _ANSWERING
        self._request = request
        call = request.call
        answer: Answer | None
        try:
            if call is not None and call.any_time:
                answer = call.act(self._answer)
            else:
                answer = self.fast_path.performer.perform(
                    request.plan.operation, request.arguments, self, self._answer, call
                )
        except Exception:  # noqa: BLE001 whatever it is, the caller is answered
            log_bug(Failure())
            answer = internal_error()
        if answer is not None:
            self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        """
        Send the answer to the request that is performed.
        """
        request = self._request
        if request is None:
            # The client is gone.
            return
        self._request = None
        plan, fast_path = request.plan, self.fast_path
        last = plan.framing.last
        status: int
        if isinstance(answer, Exception):
            problem = problem_of(answer)
            status, data = problem.status, fast_path.responses.problem(plan, problem)
        else:
            came, state = answer
            # Nearly all that come to a state are told one of these two.
            kind = VALUE if came is _APPLIED or came is VALUE else kind_of(came)
            data = fast_path.responses.about(plan, kind, state)
            status = kind.status
        self.write(data)
        if status == _OK:
            plan.tally.ok += 1
        else:
            plan.tally.others[status] += 1
        if fast_path.log is not None:
            length = len(data) - data.index(_END) - len(_END)
            fast_path.tell(self, request.arguments, request.line, status, length)
        self.answered = True
        self.last_active = fast_path.seconds()
        if self._queued is not None and not last:
            # In the next turn of the reactor, so that others get theirs.
            fast_path.call_later(0, self._go_on)
            return
        self.phase = _IDLE
        if last or self._half_closed or fast_path.connections.parting:
            self.loseConnection()

    def _go_on(self) -> None:
        queued, self._queued = self._queued, None
        if queued is None:
            return
        self.phase = _IDLE
        if not self.blocked_since:
            self.transport.resumeProducing()
        self.dataReceived(queued)

    def readConnectionLost(self) -> None:
        """
        The client will send no more, but may wait for answers.
        """
        self._half_closed = True
        if self.channel is not None and self._request is None and not self._queued:
            self.channel.readConnectionLost()
        elif self.phase is _IDLE:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        We will send no more.
        """

    def pauseProducing(self) -> None:
        """
        The client takes no answers: it gets none, for it can ask nothing.
        """
        self.blocked_since = self.fast_path.seconds()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """
        It has taken what was sent.
        """
        self.blocked_since = 0.0
        if self._queued is None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """
        See C{IPushProducer.stopProducing}.
        """

    def loseConnection(self) -> None:
        """
        Close it when all was sent.
        """
        if self.channel is None:
            self.phase = Phase.DRAINING
            # If the client does not take it, that is as bad as any other stall.
            self.blocked_since = self.blocked_since or self.fast_path.seconds()
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            self.channel.loseConnection()

    def bytes_taken(self) -> int | None:
        """
        Return what L{acknowledged_bytes.bytes_taken} has of its socket.
        """
        get_handle = getattr(self.transport, "getHandle", None)
        return None if get_handle is None else acknowledged_bytes.bytes_taken(get_handle())

    def time_out(self) -> None:
        """
        Tell the client that its request took too long.
        """
        self.receiving_since = 0.0
        if self.channel is not None:
            self.channel.refuse(too_slow(REQUEST_TIMEOUT))

    def abort(self) -> None:
        """
        Close it at once.
        """
        self.transport.abortConnection()  # type: ignore[attr-defined]
