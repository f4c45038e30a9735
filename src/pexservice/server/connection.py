"""
One connection: what the memo knows is answered here, all else by an HTTP channel.

Most connections never need a channel.  One that does keeps it for the rest of its
life, and the two take turns: a request that the memo knows is answered here when
nothing is under way on the connection, so answers keep their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from pexservice.server.limits import REQUEST_TIMEOUT
from pexservice.server.plan_cache import Plan
from pexservice.server.responses import render
from pexservice.web.problems import of_refusal, too_slow

if TYPE_CHECKING:
    from pexservice.server.channel import PexChannel
    from pexservice.server.site import PexSite


class Transport(ITransport, IConsumer, IPushProducer):
    """
    What a connection needs of one.
    """


@implementer(IHalfCloseableProtocol, IPushProducer)
class Connection(Protocol):
    """
    The protocol of a connection, on whatever transport.

    @ivar idle: it is between requests, and so free to be closed for somebody else.
    @ivar answered: it has had a request.
    @ivar touched: when it was last between requests.  Seconds, monotonic.
    @ivar since: when the request that is being received began, 0 for none.
    @ivar stalled: since when the client takes no answers, 0 if it does.
    """

    transport: Transport

    idle = True
    answered = False
    since = 0.0
    stalled = 0.0
    channel: PexChannel | None = None

    # The step that is under way here.
    _plan: Plan | None = None
    # What came while it was.
    _queued: bytes | None = None
    _half_closed = False

    def __init__(self, site: PexSite) -> None:
        self.site = site
        self._hot = hot = site.hot
        self.touched = hot.seconds()

    def connectionMade(self) -> None:
        """
        See L{IProtocol.connectionMade}.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, streaming=True)
        self.write = self.transport.write
        refusal = self.site.connections.admit(self)
        if refusal is not None:
            self._take_channel().refuse(refusal)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{IProtocol.connectionLost}.
        """
        self.connected = 0
        self._queued = None
        self.site.connections.leave(self)
        if self.channel is not None:
            self.channel.connectionLost(reason)

    def _take_channel(self) -> PexChannel:
        """
        Have all that the memo does not know handled by a channel from now on, and
        the transport's wishes as a producer too.
        """
        self.transport.unregisterProducer()
        self.channel = channel = self.site.channel(self)
        channel.makeConnection(self.transport)
        if self.stalled:
            channel.pauseProducing()
        return channel

    def dataReceived(self, data: bytes) -> None:
        """
        See L{IProtocol.dataReceived}.
        """
        hot = self._hot
        plan = hot.plans.get(data)
        if (
            plan is None
            or not self.idle
            or not (hot.limit is None or hot.admits(self, plan))
        ):
            self._take(data)
        elif plan.move is None:
            self.write(hot.answers.current(hot.committer.visible, plan.variant))
            plan.tally.ok += 1
            self.answered = True
            self.touched = hot.seconds()
            if plan.variant.last:
                self.loseConnection()
        else:
            self.idle = False
            self._plan = plan
            hot.committer.move(plan.move, self._moved)

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
        hot, variant = self._hot, plan.variant
        if isinstance(outcome, Outcome):
            self.write(hot.answers.moved(outcome.state, variant))
            plan.tally.ok += 1
        else:
            self.write(render(of_refusal(outcome).reply(None), variant))
            plan.tally.unavailable += 1
        self.answered = True
        self.touched = hot.seconds()
        if self._queued is not None and not variant.last:
            # In the next turn of the reactor, so that others get theirs.
            hot.call_later(0, self._go_on)
            return
        self.idle = True
        if variant.last or self._half_closed or hot.connections.parting:
            self.loseConnection()

    def _go_on(self) -> None:
        queued, self._queued = self._queued, None
        if queued is None:
            return
        self.idle = True
        if not self.stalled:
            self.transport.resumeProducing()
        self.dataReceived(queued)

    def readConnectionLost(self) -> None:
        """
        The client will send no more, but may wait for answers.
        """
        self._half_closed = True
        if self.channel is not None and self._plan is None and not self._queued:
            self.channel.readConnectionLost()
        elif self.idle:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        We will send no more.
        """

    def pauseProducing(self) -> None:
        """
        The client takes no answers: it gets none, for it can ask nothing.
        """
        self.stalled = self._hot.seconds()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """
        It has taken what was sent.
        """
        self.stalled = 0.0
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
        # If the client does not take it, that is as bad as any other stall.
        self.stalled = self.stalled or self._hot.seconds()
        if self.channel is None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            self.channel.loseConnection()

    def time_out(self) -> None:
        """
        Tell the client that its request took too long.
        """
        self.since = 0.0
        if self.channel is not None:
            self.channel.refuse(too_slow(REQUEST_TIMEOUT))

    def abort(self) -> None:
        """
        Close it at once.
        """
        self.transport.abortConnection()  # type: ignore[attr-defined]
