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
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from pexservice.web import problems
from pexservice.web.clients import Caller
from pexservice.web.endpoints import Endpoint, Table
from pexservice.web.operations import Answer, ISender, Operation, log_bug, reply_to
from pexservice.web.parameters import Arguments, read
from pexservice.web.performer import Performer
from pexservice.web.problems import Problem
from pexservice.web.replies import Reply

#: The endpoint that an OPTIONS of the whole server is about.
_ANY = Endpoint("*", (b"GET", b"HEAD", b"POST"), "")


def operation_of(request: IRequest) -> Operation | None:
    """
    Return the operation that C{request} was found to mean, if one was found.
    """
    operation: Operation | None = getattr(request, "operation", None)
    return operation


@implementer(ISender)
class _Sender:
    """
    The origin of a request that does not know its connection.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller


class OperationResource(Resource):
    """
    A leaf of the tree, which answers one request by performing its operation.
    """

    isLeaf = True

    def __init__(
        self, performer: Performer, operation: Operation, arguments: Arguments
    ) -> None:
        super().__init__()
        self._performer = performer
        self._operation = operation
        self._arguments = arguments

    def render(self, request: IRequest) -> int:
        """
        Perform the operation, and answer when it is done.
        """
        operation = self._operation
        request.operation = operation  # type: ignore[attr-defined]
        for name, value in operation.browser_headers:
            request.responseHeaders.addRawHeader(name, value)
        left: list[object] = []

        def answer(found: Answer) -> None:
            if not left:
                send(request, reply_to(operation, found))

        def done(reply: Reply | None) -> None:
            if reply is not None and not left:
                send(request, reply)

        performer, arguments, sender = (
            self._performer,
            self._arguments,
            self._sender(request),
        )
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

    def _sender(self, request: IRequest) -> ISender:
        if ISender.providedBy(request):
            return cast(ISender, request)
        peer = cast(Request, request).client
        return _Sender(self._performer.clients.caller(peer, request.getHost()))


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
        refusal = self._refusal(request, endpoint)
        if refusal is None and endpoint is not None and request.method == b"OPTIONS":
            preflight = performer.preflight(arguments, endpoint.allow)
            reply = Reply(204, ((b"Allow", endpoint.allow), *preflight))
            operation = performer.operation(request.method, arguments, work=lambda _: reply)
        elif refusal is None:
            answer: bytes | int = self._inner.render(request)
            return answer
        else:
            operation = performer.operation(request.method, arguments, refusal=refusal)
        return OperationResource(performer, operation, arguments).render(request)

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
    request.write(reply.apply(request))
    request.finish()
