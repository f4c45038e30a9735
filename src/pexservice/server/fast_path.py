"""
What the connections of one worker share to answer what the memo knows.
"""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IReactorTime

from pexservice.commit.interface import ICommitter
from pexservice.commit.requests import Move
from pexservice.server.limits import Connections
from pexservice.server.plan_cache import Memo, Plan, Variant
from pexservice.server.request_counters import Requests
from pexservice.server.responses import Answers
from pexservice.web.clients import Clients
from pexservice.web.cross_site import CrossSitePolicy
from pexservice.web.hosts import HostPolicy
from pexservice.web.meaning import Meaning
from pexservice.web.throttle import RateLimit


class Hot:
    """
    @ivar plans: of the memo.
    @ivar pages: the rules for web pages.
    @ivar requests: those that were answered, also by others.
    @ivar seconds: a monotonic clock.
    @ivar call_later: the reactor's.
    @ivar holder: names the client that a connection counts for; see L{Clients.holder}.
    """

    def __init__(
        self,
        committer: ICommitter,
        connections: Connections,
        reactor: IReactorTime,
        *,
        clients: Clients,
        pages: CrossSitePolicy | None = None,
        hosts: HostPolicy | None = None,
        limit: RateLimit | None = None,
        remembers: bool = True,
    ) -> None:
        """
        @param remembers: L{False} to have every request parsed.
        """
        self.committer = committer
        self.connections = connections
        self.pages = pages or CrossSitePolicy()
        self.answers = Answers(self.pages.answer_headers(()))
        self.requests = Requests()
        self.limit = limit
        self.seconds = connections.seconds
        self.call_later = reactor.callLater
        self.holder = clients.holder
        self._clients = clients
        self._hosts = hosts
        self._memo = Memo()
        self.plans = self._memo.plans
        self._moves = {
            meaning: committer.read_move if meaning.value is None else Move(meaning.value)
            for meaning in Meaning
        }
        # Few, so that a template is made once for each.
        self._variants: dict[tuple[bytes, bytes | None, bool], Variant] = {}
        if not remembers:
            self.retire()

    def learn(
        self,
        chunk: bytes,
        meaning: Meaning,
        method: bytes,
        *of_answer: *tuple[bytes, bytes | None, bool],
        host: bytes | None,
        forwarded: tuple[bytes, ...],
    ) -> None:
        """
        C{chunk} was found to be a request for C{meaning} by C{method}.

        @param of_answer: the attributes of its L{Variant}.
        """
        variant = self._variants.get(of_answer)
        if variant is None:
            variant = self._variants[of_answer] = Variant(*of_answer)
        tally = self.requests.tally(meaning, method)
        any_way = self._hosts is None or self._hosts.answers_to(host)
        self._memo.learn(
            chunk, Plan(self._moves[meaning], variant, tally, any_way, forwarded)
        )

    def admits(self, peer: IAddress, plan: Plan) -> bool:
        """
        Is the request within its client's rate?  One that is not goes the long way,
        where it is refused.
        """
        return self.limit is None or self.limit.take(
            self._clients.address(peer, plan.forwarded)
        )

    def checks_host(self, local: IAddress, peer: IAddress) -> bool:
        """
        Return whether a connection is one of those whose C{Host} is checked.
        """
        return self._hosts is not None and self._hosts.concerns(local, peer)

    def retire(self) -> None:
        """
        Answer nothing any more.
        """
        self._memo.retire()
