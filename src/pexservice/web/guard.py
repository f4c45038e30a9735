"""
In front of the tree: looks at the bytes of the path before anybody decodes or
normalizes them, and at the method.  werkzeug, below Klein, would take C{//next} and
C{/%6eext} for C{/next}, and run a GET's handler for HEAD.
"""

from __future__ import annotations

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pexservice.web import problems
from pexservice.web.access import Access
from pexservice.web.endpoints import BY_PATH
from pexservice.web.parameters import accept
from pexservice.web.replies import Reply
from pexservice.web.throttle import RateLimit


class Guard(Resource):
    """
    Lets through what has a path and a method of the table, literally.
    """

    isLeaf = True

    def __init__(self, inner: Resource, access: Access, limit: RateLimit | None) -> None:
        super().__init__()
        self._inner = inner
        self._access = access
        self._limit = limit

    def render(self, request: IRequest) -> bytes | int:
        """
        See L{IResource.render}.
        """
        for name, value in self._access.headers(request):
            request.responseHeaders.addRawHeader(name, value)
        if self._limit is not None and not self._limit.take(request.getClientAddress()):
            problem = problems.too_many_requests(self._limit.rate)
            return _finish(request, problem.reply(accept(request)))
        path = request.uri.partition(b"?")[0]
        endpoint = BY_PATH.get(path)
        if path == b"*" and request.method == b"OPTIONS":
            return _finish(request, Reply(204, ((b"Allow", b"GET, HEAD, POST, OPTIONS"),)))
        if endpoint is None:
            problem = problems.no_such_path(map(bytes.decode, BY_PATH))
            return _finish(request, problem.reply(accept(request)))
        if request.method == b"OPTIONS":
            preflight = self._access.preflight_headers(request, endpoint.allow)
            return _finish(request, Reply(204, ((b"Allow", endpoint.allow), *preflight)))
        if request.method not in endpoint.methods:
            problem = problems.wrong_method(endpoint.allow)
            return _finish(request, problem.reply(accept(request)))
        answer: bytes | int = self._inner.render(request)
        return answer


def _finish(request: IRequest, reply: Reply) -> int:
    """
    Send C{reply}.  twisted.web itself would give a 204 a length, and warn of a body
    for HEAD.
    """
    request.write(reply.apply(request))
    request.finish()
    return NOT_DONE_YET
