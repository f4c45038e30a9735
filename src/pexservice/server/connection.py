"""
The protocol of a connection, which answers requests that the plan cache knows.

All other requests are answered by an HTTP channel.

Most connections never need a channel.  A connection that does keeps it for the rest of its
life, and the two take turns: a request that the cache knows is answered here when nothing
is under way on the connection, so answers keep their order.
"""

from __future__ import annotations

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
from twisted.web.server import Site
from zope.interface import implementer

from pexservice.commit.requests import Outcome
from pexservice.server import acknowledged_bytes
from pexservice.server.channel import PexChannel
from pexservice.server.fast_path import FastPath
from pexservice.server.interfaces import IConnection, Phase
from pexservice.server.limits import REQUEST_TIMEOUT, Admission
from pexservice.server.plans import Recognized, Shape
from pexservice.web.clients import Caller
from pexservice.web.operations import Answer, kind_of, log_bug
from pexservice.web.problems import (
    internal_error,
    problem_of,
    too_many_connections,
    too_slow,
)
from pexservice.web.representations import VALUE

# Names of our own cost a third of what asking an enumeration does.
_IDLE, _ANSWERING = Phase.IDLE, Phase.ANSWERING
_READ, _APPLIED = Outcome.READ, Outcome.APPLIED
_OK = HTTPStatus.OK

#: The end of a head.
_END = b"\r\n\r\n"


class Transport(ITransport, IConsumer, IPushProducer):
    """
    The interfaces that a connection needs of its transport.
    """


@implementer(IConnection, IHalfCloseableProtocol, IPushProducer)
class Connection(Protocol):
    """
    The protocol of a connection, on whatever transport.

    @ivar shapes: the shapes of the heads that came on the connection.
    @ivar admission: the answer of the table of connections, once the table was asked.
    """

    transport: Transport

    def __init__(self, fast_path: FastPath, site: Site) -> None:
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
        self._site = site
        # The request that is performed here.
        self._request: Recognized | None = None
        # The input that came while that request was performed.
        self._queued: bytes | None = None
        self._half_closed = False

    @cached_property
    def caller(self) -> Caller:
        """
        Return the two ends of the connection, as far as answers depend on them.
        """
        transport, clients = self.transport, self.fast_path.performer.clients
        return clients.caller(transport.getPeer(), transport.getHost())

    def connectionMade(self) -> None:
        """
        Begin to serve the connection, or refuse or drop it if there is no room for it.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, streaming=True)
        self.write = self.transport.write
        # Until now the connection may have been in the TLS handshake.
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
        Leave the table of connections, and end the channel if there is one.
        """
        self.connected = 0
        self.phase = Phase.CLOSED
        self._request = self._queued = None
        self.fast_path.connections.leave(self)
        if self.channel is not None:
            self.channel.connectionLost(reason)

    def _take_channel(self) -> PexChannel:
        """
        Have a channel handle all that the plan cache does not know from now on.

        The channel also takes this protocol's place as the transport's producer.
        """
        self.transport.unregisterProducer()
        self.channel = channel = PexChannel(self, self.fast_path, self._site)
        channel.makeConnection(self.transport)
        if self.blocked_since:
            channel.pauseProducing()
        return channel

    def dataReceived(self, data: bytes) -> None:
        """
        Answer a request that the plan cache knows, or give C{data} to the channel.
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
            # The input has to wait for the answer, and the client with what comes next.
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
        Send the answer to the request that is being performed.
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
            # Nearly all answers about a state are one of these two.
            kind = VALUE if came is _APPLIED or came is _READ else kind_of(came)
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
            # In the next turn of the reactor, so that other connections get theirs.
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
        Take a half-close: the client will send no more, but may wait for answers.
        """
        self._half_closed = True
        if self.channel is not None and self._request is None and not self._queued:
            self.channel.readConnectionLost()
        elif self.phase is _IDLE:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        Do nothing: only this side of the connection will send no more.
        """

    def pauseProducing(self) -> None:
        """
        Read no more: a client that takes no answers can ask for none.
        """
        self.blocked_since = self.fast_path.seconds()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """
        Read again: the client has taken what was sent.
        """
        self.blocked_since = 0.0
        if self._queued is None:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """
        Do nothing: L{connectionLost} does what there is to do.
        """

    def loseConnection(self) -> None:
        """
        Close the connection when everything was sent.
        """
        if self.channel is None:
            self.phase = Phase.DRAINING
            # A client that does not take the rest has stalled, as in any other phase.
            self.blocked_since = self.blocked_since or self.fast_path.seconds()
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            self.channel.loseConnection()

    def bytes_taken(self) -> int | None:
        """
        Return L{acknowledged_bytes.bytes_taken} of the connection's socket.
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
        Close the connection at once.
        """
        self.transport.abortConnection()  # type: ignore[attr-defined]
