"""
The two ends of the resource tree: the guard and the leaf.

The guard stands before the handlers.  The leaf performs the operations that the handlers
make.

The guard looks at the bytes of the path before anybody decodes or normalizes them, and at
the method.  werkzeug, below Klein, would take C{//next} and C{/%6eext} for C{/next}, and
run a GET's handler for HEAD.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES, Request
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pexservice.core.cursor import Transition
from pexservice.web import problems
from pexservice.web.cross_site import is_ahead
from pexservice.web.endpoints import Endpoint, Table
from pexservice.web.operations import (
    MOVE,
    Answer,
    ISender,
    Operation,
    Work,
    log_bug,
    reply_to,
)
from pexservice.web.parameters import ORIGIN, PURPOSES, preferences, read
from pexservice.web.performer import Performer
from pexservice.web.problems import Problem
from pexservice.web.replies import Reply

#: The endpoint that an OPTIONS of the whole server is about.
_ANY = Endpoint("*", (b"GET", b"HEAD", b"POST"), "")


class OperationResource(Resource):
    """
    A leaf of the tree, which answers one request by performing its operation.
    """

    isLeaf = True

    def __init__(
        self,
        performer: Performer,
        request: IRequest,
        *,
        transition: Transition | None = None,
        deed: str | None = None,
        refusal: Problem | None = None,
        work: Work | None = None,
    ) -> None:
        """
        Make the operation that C{request} means.

        @param transition: what the request's target stands for, as the others that follow.
        """
        super().__init__()
        self._performer = performer
        self._arguments = arguments = read(request.requestHeaders)
        purposes = [value for name in PURPOSES for value in arguments.get(name, ())]
        self._operation = Operation(
            method=request.method,
            browser_headers=performer.browser_headers(arguments.get(ORIGIN, ())),
            preferences=preferences(arguments),
            transition=transition,
            deed=deed if transition is None else MOVE,
            ahead=transition is not None and is_ahead(purposes),
            refusal=refusal,
            work=work,
        )

    def render(self, request: IRequest) -> int:
        """
        Perform the operation, and answer when it is done.
        """
        operation = self._operation
        request.operation = operation  # type: ignore[attr-defined]
        left: list[object] = []

        def answer(found: Answer) -> None:
            if not left:
                send(request, reply_to(operation, found))

        def done(reply: Reply | None) -> None:
            if reply is not None and not left:
                send(request, reply)

        performer, arguments = self._performer, self._arguments
        sender = cast(ISender, request)
        working: Deferred[None] = succeed(None)
        if operation.work is None:
            found = performer.perform(operation, arguments, sender, answer)
            if found is not None:
                answer(found)
        else:
            working = performer.work(
                operation, operation.work, arguments, sender
            ).addCallback(done)
            working.addErrback(log_bug)

        def gone(reason: Failure) -> None:
            left.append(reason)
            working.cancel()

        cast(Request, request).notifyFinish().addErrback(gone)
        return NOT_DONE_YET


class Guard(Resource):
    """
    The guard of the tree: a request passes if the table literally has its path and method.
    """

    isLeaf = True

    def __init__(self, inner: Resource, performer: Performer, table: Table) -> None:
        super().__init__()
        self._inner = inner
        self._performer = performer
        self._table = table

    def render(self, request: IRequest) -> bytes | int:
        """
        Pass C{request} to the handlers, or answer a refusal or an C{OPTIONS} without them.
        """
        path = request.uri.partition(b"?")[0]
        endpoint = self._table.by_path.get(path)
        if path == b"*" and request.method == b"OPTIONS":
            endpoint = _ANY
        performer, arguments = self._performer, read(request.requestHeaders)
        # Before anything can go wrong: the answer to a bug has these headers too.
        for name, value in performer.browser_headers(arguments.get(ORIGIN, ())):
            request.responseHeaders.addRawHeader(name, value)
        resource = self._inner
        refusal = self._refusal(request, endpoint)
        if refusal is not None:
            resource = OperationResource(performer, request, refusal=refusal)
        elif endpoint is not None and request.method == b"OPTIONS":
            preflight = performer.preflight(arguments, endpoint.allow)
            reply = Reply(204, ((b"Allow", endpoint.allow), *preflight))
            resource = OperationResource(performer, request, work=lambda _: reply)
        answer: bytes | int = resource.render(request)
        return answer

    def _refusal(self, request: IRequest, endpoint: Endpoint | None) -> Problem | None:
        """
        Return the reason to ask no handler: there is no such path, or not with this method.
        """
        if endpoint is None:
            return problems.no_such_path(map(bytes.decode, self._table.by_path))
        if request.method not in (*endpoint.methods, b"OPTIONS"):
            return problems.wrong_method(endpoint.allow)
        return None


def send(request: IRequest, reply: Reply) -> None:
    """
    Answer C{request} with C{reply}.

    twisted.web itself would give a 204 a length, and warn of a body for HEAD.
    """
    request.setResponseCode(reply.status, reply.phrase)
    for name, value in reply.headers:
        request.responseHeaders.addRawHeader(name, value)
    if reply.status not in NO_BODY_CODES:
        # Also in the answer to a HEAD, which says how long the body would be.
        length = b"%d" % len(reply.body)
        request.responseHeaders.setRawHeaders(b"Content-Length", [length])
    request.write(reply.body)
    request.finish()
