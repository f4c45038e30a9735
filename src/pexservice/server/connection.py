"""
One connection: what the memo knows is answered here, all else by an HTTP channel.

Most connections never need a channel.  One that does keeps it for the rest of its
life, and the two take turns: a request that the memo knows is answered here when
nothing is under way on the connection, so answers keep their order.
"""

from __future__ import annotations

from collections.abc import Callable

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

from pexservice.commit.requests import Outcome
from pexservice.server.channel import PexChannel
from pexservice.server.fast_path import Hot
from pexservice.server.interfaces import IConnection, Phase
from pexservice.server.limits import REQUEST_TIMEOUT, Admission
from pexservice.server.plan_cache import Plan
from pexservice.web.problems import of_refusal, too_many_connections, too_slow

_IDLE = Phase.IDLE


class Transport(ITransport, IConsumer, IPushProducer):
    """
    What a connection needs of one.
    """


@implementer(IConnection, IHalfCloseableProtocol, IPushProducer)
class Connection(Protocol):
    """
    The protocol of a connection, on whatever transport.
    """

    transport: Transport

    phase = _IDLE
    #: The answer of the table of connections, once that was asked.
    admission: Admission | None = None
    answered = False
    receiving_since = 0.0
    blocked_since = 0.0
    channel: PexChannel | None = None

    # The step that is under way here.
    _plan: Plan | None = None
    # What came while it was.
    _queued: bytes | None = None
    _half_closed = False

    def __init__(self, hot: Hot, make_channel: Callable[[Connection], PexChannel]) -> None:
        """
        @param make_channel: makes what parses the requests of a connection.
        """
        self.hot = hot
        self._make_channel = make_channel
        self.last_active = hot.seconds()

    def connectionMade(self) -> None:
        """
        See L{IProtocol.connectionMade}.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, streaming=True)
        self.write = self.transport.write
        # Until now it may have agreed on TLS.
        self.phase, self.receiving_since = _IDLE, 0.0
        self.last_active = self.hot.seconds()
        if self.admission is None:
            self.admit(getattr(self.transport.getPeer(), "host", None))
        if self.admission is Admission.REFUSED:
            limit = self.hot.connections.limit
            self._take_channel().refuse(too_many_connections(limit))
        elif self.admission is Admission.DROPPED:
            self.abort()

    def admit(self, host: str | None) -> Admission:
        """
        Ask for a place among the connections.

        @param host: the address of the other end, if it has one.
        """
        hot = self.hot
        self.admission = admission = hot.connections.admit(self, hot.holder(host))
        return admission

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{IProtocol.connectionLost}.
        """
        self.connected = 0
        self.phase = Phase.CLOSED
        self._queued = None
        self.hot.connections.leave(self)
        if self.channel is not None:
            self.channel.connectionLost(reason)

    def _take_channel(self) -> PexChannel:
        """
        Have all that the memo does not know handled by a channel from now on, and
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
        See L{IProtocol.dataReceived}.
        """
        hot = self.hot
        plan = hot.plans.get(data)
        if (
            plan is None
            or self.phase is not _IDLE
            or not (plan.any_way or self._goes_any_way())
            or not (hot.limit is None or hot.admits(self.transport.getPeer(), plan))
        ):
            self._take(data)
        elif plan.move is None:
            self.write(hot.answers.current(hot.committer.visible, plan.variant))
            plan.tally.ok += 1
            self.answered = True
            self.last_active = hot.seconds()
            if plan.variant.last:
                self.loseConnection()
        else:
            self.phase = Phase.ANSWERING
            self._plan = plan
            hot.committer.move(plan.move, self._moved)

    def _goes_any_way(self) -> bool:
        transport = self.transport
        return not self.hot.checks_host(transport.getHost(), transport.getPeer())

    def _take(self, data: bytes) -> None:
        """
        What the memo does not know, or not now.
        """
        if self._plan is None:
            (self.channel or self._take_channel()).dataReceived(data)
        else:
            # It has to wait for its turn, and the client with what comes after it.
            self._queued = (self._queued or b"") + data
            self.transport.pauseProducing()

    def _moved(self, outcome: Outcome | Exception, /) -> None:
        """
        The step is durable, or will never be.  See L{pexservice.commit.requests.Waiter}.
        """
        plan, self._plan = self._plan, None
        if plan is None or not self.connected:
            return
        hot, variant = self.hot, plan.variant
        if isinstance(outcome, Outcome):
            self.write(hot.answers.moved(outcome.state, variant))
            plan.tally.ok += 1
        else:
            reply = of_refusal(outcome).reply(None)
            self.write(hot.answers.refused(reply, variant))
            plan.tally.refused[reply.status] += 1
        self.answered = True
        self.last_active = hot.seconds()
        if self._queued is not None and not variant.last:
            # In the next turn of the reactor, so that others get theirs.
            hot.call_later(0, self._go_on)
            return
        self.phase = _IDLE
        if variant.last or self._half_closed or hot.connections.parting:
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
        if self.channel is not None and self._plan is None and not self._queued:
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
        self.blocked_since = self.hot.seconds()
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
        See L{IPushProducer.stopProducing}.
        """

    def loseConnection(self) -> None:
        """
        Close it when all was sent.
        """
        if self.channel is None:
            self.phase = Phase.DRAINING
            # If the client does not take it, that is as bad as any other stall.
            self.blocked_since = self.blocked_since or self.hot.seconds()
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            self.channel.loseConnection()

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
