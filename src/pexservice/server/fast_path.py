"""
The fast path: the state that the connections of one worker share.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from pexservice.server.access_log import AccessLog
from pexservice.server.limits import Connections
from pexservice.server.plan_cache import PlanCache
from pexservice.server.plans import Framing, Plan
from pexservice.server.request_counters import RequestCounters
from pexservice.server.responses import Responses
from pexservice.web.operations import ISender, Operation
from pexservice.web.parameters import FORWARDED_FOR, Arguments
from pexservice.web.performer import Performer


class FastPath:
    """
    The plan cache of a worker, with the parts that perform plans and write their answers.

    @ivar log: the access log, if there is one.
    @ivar performer: performs operations, also those of requests that were parsed.
    @ivar requests: counts the requests that were answered, also those that were parsed.
    @ivar seconds: a monotonic clock.
    @ivar call_later: the reactor's C{callLater}.
    """

    def __init__(
        self,
        performer: Performer,
        connections: Connections,
        reactor: IReactorTime,
        *,
        log: AccessLog | None = None,
    ) -> None:
        """
        Make the shared state, with an empty plan cache.

        @param log: the access log, if there is one.
        """
        self.performer = performer
        self.connections = connections
        self.responses = Responses()
        self.requests = RequestCounters()
        self.cache = PlanCache(performer.bind, performer.meanings(), logs=log is not None)
        self.log = log
        self.seconds = connections.seconds
        self.call_later = reactor.callLater

    def learn(
        self, head: bytes, operation: Operation, path: bytes, framing: Framing
    ) -> None:
        """
        Have the plan cache keep that C{head}, which was parsed, means C{operation}.
        """
        if operation.is_about_cursor:
            tally = self.requests.tally(path, operation.method)
            self.cache.learn(head, Plan(operation, framing, tally))

    def tell(
        self,
        sender: ISender,
        arguments: Arguments,
        request: bytes,
        status: int,
        length: int,
    ) -> None:
        """
        Write an answer into the access log, if there is one.

        @param request: the request line, or a placeholder if there was none.
        @param length: the length of the body that was sent.
        """
        if self.log is not None:
            forwarded = arguments.get(FORWARDED_FOR)
            host = self.performer.clients.host(sender.caller, forwarded)
            self.log.add(host, request, status, length, arguments)

    def tick(self) -> None:
        """
        Begin another second in the answers, the access log and the plan cache.
        """
        self.responses.tick()
        if self.log is not None:
            self.log.tick()
        self.cache.tick()
