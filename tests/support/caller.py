"""
A client of the API that calls the Klein app without a network.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from pexservice.web.access import Access
from pexservice.web.twisted_resource import ApiResource
from tests.support.fakes import now
from tests.support.wire import Server


@frozen
class Answer:
    """
    A response.

    @ivar length: the value of C{Content-Length}, which Twisted removes from the headers.
    """

    status: int
    headers: Headers
    length: int | str
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        """
        Return the value of the header C{name}, or C{None}; fail if it has several values.
        """
        values = self.headers.getRawHeaders(name)
        if values is None:
            return None
        (value,) = values
        return value

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """
    A client that calls the API of a L{Server} directly.

    @ivar store: the server's store, which can hold its commits back.
    """

    def __init__(self, access: Access | None = None, **options: Any) -> None:
        """
        @param options: arguments of the L{Server}.
        """
        server = Server(access=access, **options)
        self.store, self.clock = server.store, server.clock
        self.committer, self.events = server.committer, server.events
        self.fatal = server.failures
        self._treq: Any = StubTreq(ApiResource(server.api.call_handler, server.checker))

    def __call__(self, method: str, path: str, **headers: str | list[str]) -> Answer:
        """
        Send a request; C{Accept_Language="de"} becomes C{Accept-Language: de}.

        The committer commits the open batch, and the response is returned.
        """
        raw = Headers()
        for name, value in headers.items():
            values = [value] if isinstance(value, str) else value
            raw.setRawHeaders(name.replace("_", "-"), values)
        url = f"http://localhost{path}"
        sent: Deferred[Any] = self._treq.request(method, url, headers=raw)
        self._treq.flush()
        self.clock.turn(1.0)
        self._treq.flush()
        response = now(sent)
        body = now(self._treq.content(response))
        return Answer(response.code, response.headers, response.length, body)
