"""
A caller of the API, without a network.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from pexservice.commit.asynchronous import AsynchronousCommitter
from pexservice.commit.committer import Committer
from pexservice.metrics import Metrics
from pexservice.server.limits import Connections
from pexservice.server.request_counters import RequestCounters
from pexservice.web.access import Access, HostPolicy
from pexservice.web.api import Api
from pexservice.web.clients import Clients
from pexservice.web.endpoints import DEFAULT_TABLE, EndpointTable
from pexservice.web.events import Events
from pexservice.web.operations import RequestChecker
from tests.support.fakes import MemoryStore, Turns, now


@frozen
class Answer:
    """
    The answer to a request.

    @ivar length: what C{Content-Length} said; Twisted takes it out of the headers.
    """

    status: int
    headers: Headers
    length: int | str
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        """
        Return the value of the header C{name}, which must not be there twice.
        """
        values = self.headers.getRawHeaders(name)
        if values is None:
            return None
        (value,) = values
        return value

    @property
    def json(self) -> Any:
        """
        Return what the body means as JSON.
        """
        return json.loads(self.body)


class Caller:
    """
    A caller of the API, on a store in memory.

    @ivar store: below the API; may hold its commits.
    """

    def __init__(
        self,
        access: Access | None = None,
        *,
        synchronous: bool = True,
        table: EndpointTable = DEFAULT_TABLE,
        supervisor: int | None = None,
    ) -> None:
        """
        @param supervisor: the file descriptor of the supervisor's scoreboard.
        """
        self.store = MemoryStore()
        self.clock = Turns()
        self.fatal: list[Failure] = []
        committer_class = Committer if synchronous else AsynchronousCommitter
        self.committer = committer_class(
            self.store,
            self.clock,
            fatal=self.fatal.append,
            time_ns=lambda: 1_795_000_000_123_456_789,
        )
        now(Deferred.fromCoroutine(self.committer.start()))
        hosts = HostPolicy(own_name="box", needed=False)
        access = access or Access()
        checker = RequestChecker(self.committer, access, Clients(), hosts=hosts)
        counters, connections = RequestCounters(), Connections(100)
        scrape = Metrics(
            self.committer, counters, connections, self.store, supervisor
        ).response
        self.events = Events(self.committer, self.clock.callLater)
        api = Api(
            self.committer,
            checker,
            self.events,
            table=table,
            # No page of the history waits.
            later=lambda _, call: call(),
            scrape=scrape,
        )
        self._treq: Any = StubTreq(api.resource())

    def begin(self, method: str, path: str, **headers: str | list[str]) -> list[Answer]:
        """
        Send a request; C{Accept_Language="de"} becomes C{Accept-Language: de}.

        @return: a list that gets the answer when it is there.
        """
        answers: list[Answer] = []
        raw = Headers()
        for name, value in headers.items():
            values = [value] if isinstance(value, str) else value
            raw.setRawHeaders(name.replace("_", "-"), values)
        sent: Deferred[Any] = self._treq.request(
            method, f"http://localhost{path}", headers=raw
        )

        def got(response: Any) -> None:
            self._treq.content(response).addCallback(
                lambda body: answers.append(
                    Answer(response.code, response.headers, response.length, body)
                )
            )

        sent.addCallback(got)
        self.turn()
        return answers

    def turn(self) -> None:
        """
        Let a batch that gathers be committed, and answers arrive.
        """
        self._treq.flush()
        self.clock.turn(1.0)
        self._treq.flush()

    def __call__(self, method: str, path: str, **headers: str | list[str]) -> Answer:
        """
        Send a request and get its answer.
        """
        (answer,) = self.begin(method, path, **headers)
        return answer
