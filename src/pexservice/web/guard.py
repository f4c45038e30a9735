"""
In front of the tree: looks at the bytes of the path before anybody decodes or
normalizes them, and at the method.  werkzeug, below Klein, would take C{//next} and
C{/%6eext} for C{/next}, and run a GET's handler for HEAD.
"""

from __future__ import annotations

from typing import cast

from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pexservice.web import problems
from pexservice.web.access import Access
from pexservice.web.endpoints import Endpoint, Table
from pexservice.web.hosts import HostPolicy
from pexservice.web.parameters import accept
from pexservice.web.problems import Problem
from pexservice.web.replies import Reply
from pexservice.web.throttle import RateLimit

#: What an OPTIONS of the whole server is about.
_ANY = Endpoint("*", (b"GET", b"HEAD", b"POST"), "")


class Guard(Resource):
    """
    Lets through what has a path and a method of the table, literally.
    """

    isLeaf = True

    def __init__(
        self,
        inner: Resource,
        access: Access,
        limit: RateLimit | None,
        hosts: HostPolicy | None,
        table: Table,
    ) -> None:
        """
        @param hosts: decides which C{Host} is answered; L{None} to answer any.
        """
        super().__init__()
        self._inner = inner
        self._access = access
        self._limit = limit
        self._hosts = hosts
        self._table = table

    def render(self, request: IRequest) -> bytes | int:
        """
        See L{IResource.render}.
        """
        for name, value in self._access.headers(request):
            request.responseHeaders.addRawHeader(name, value)
        path = request.uri.partition(b"?")[0]
        endpoint = self._table.by_path.get(path)
        if path == b"*" and request.method == b"OPTIONS":
            endpoint = _ANY
        problem = self._check_sender(request) or self._check_target(request, endpoint)
        if problem is not None:
            return _finish(request, problem.reply(accept(request)))
        if endpoint is not None and request.method == b"OPTIONS":
            preflight = self._access.preflight_headers(request, endpoint.allow)
            return _finish(request, Reply(204, ((b"Allow", endpoint.allow), *preflight)))
        answer: bytes | int = self._inner.render(request)
        return answer

    def _check_sender(self, request: IRequest) -> Problem | None:
        """
        Return why requests of the sender of this one are not answered, whatever it asks
        for.
        """
        if self._limit is not None and not self._limit.take(request.getClientAddress()):
            return problems.too_many_requests(self._limit.rate)
        # The connection's other end: getClientAddress looks behind proxies.
        peer = cast(Request, request).client
        if self._hosts is None or not self._hosts.concerns(request.getHost(), peer):
            return None
        return self._hosts.check(request.requestHeaders.getRawHeaders(b"host", (None,))[0])

    def _check_target(self, request: IRequest, endpoint: Endpoint | None) -> Problem | None:
        """
        Return why no handler is asked: there is no such path, or not with this method.
        """
        if endpoint is None:
            return problems.no_such_path(map(bytes.decode, self._table.by_path))
        if request.method not in (*endpoint.methods, b"OPTIONS"):
            return problems.wrong_method(endpoint.allow)
        return None


def _finish(request: IRequest, reply: Reply) -> int:
    """
    Send C{reply}.  twisted.web itself would give a 204 a length, and warn of a body
    for HEAD.
    """
    request.write(reply.apply(request))
    request.finish()
    return NOT_DONE_YET
