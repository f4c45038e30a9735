"""
The API as a Twisted resource, to embed it in another Twisted program.

The daemon does not use this module.  Another program gets the same API with
C{Site(ApiResource(api.call_handler, checker))}.  Tests compare the daemon's responses with
those of such a site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.http import Request as TwistedRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from pexservice.commit.interface import Outcome
from pexservice.core.cursor import State
from pexservice.web.operations import (
    HandlerResult,
    Operation,
    Request,
    RequestChecker,
    response_kind,
)
from pexservice.web.parameters import ORIGIN, headers_of, preferences_of
from pexservice.web.preconditions import Preconditions
from pexservice.web.problems import problem_of
from pexservice.web.representations import state_response
from pexservice.web.responses import Response, Stream


class ApiResource(Resource):
    """
    The resource for all paths of a site.
    """

    isLeaf = True

    def __init__(
        self, call_handler: Callable[[Request], HandlerResult], checker: RequestChecker
    ) -> None:
        super().__init__()
        self._call_handler = call_handler
        self._checker = checker

    def render(self, request: TwistedRequest) -> int:
        exchange = _Exchange(request, self._checker)
        request.notifyFinish().addErrback(exchange.client_disconnected)
        maybeDeferred(self._begin, exchange).addErrback(
            lambda failure: exchange.fail(cast(Exception, failure.value))
        )
        return NOT_DONE_YET

    def _begin(self, exchange: _Exchange) -> Deferred[None] | None:
        request = exchange.request
        self._checker.check_rate_and_host(request.headers, request.peer)
        result = self._call_handler(request)
        if isinstance(result, Operation):
            start, preconditions = self._checker.check_operation(result, request.headers)
            exchange.preconditions = preconditions
            start(exchange)
        elif isinstance(result, Deferred):
            exchange.handler_result = result
            return result.addCallback(exchange.send)
        else:
            exchange.send(result)
        return None


class _Exchange:
    """
    A request that Twisted has received, and its response.

    It is the committer's L{Waiter<pexservice.commit.interface.Waiter>} for the request.
    """

    preconditions: Preconditions
    handler_result: Deferred[Response] | None = None

    def __init__(self, request: TwistedRequest, checker: RequestChecker) -> None:
        self._twisted_request = request
        self._client_gone = False
        self._stream: Stream | None = None
        method, target = request.method, request.uri
        headers = headers_of(request.requestHeaders)
        self._browser_headers = checker.access.browser_headers(headers.get(ORIGIN, ()))
        local_address = _address_of(request.getHost()) or ""
        address = _address_of(request.getClientAddress())
        peer = checker.clients.peer(address, local_address)
        self.request = Request(method, target, target.partition(b"?")[0], headers, peer)

    def client_disconnected(self, _: Failure) -> None:
        self._client_gone = True
        if self.handler_result is not None:
            self.handler_result.cancel()
        if self._stream is not None:
            self._stream.end()

    def respond(self, outcome: Outcome, state: State) -> None:
        kind = response_kind(outcome, state, self.request.method, self.preconditions)
        self.send(state_response(kind, preferences_of(self.request.headers), state))

    def fail(self, error: Exception) -> None:
        if not self._client_gone:
            representation = preferences_of(self.request.headers).problem
            self.send(problem_of(error).response(representation))

    def send(self, response: Response) -> None:
        if self._client_gone:
            return
        request = self._twisted_request
        request.setResponseCode(response.status, response.phrase)
        for name, value in (*self._browser_headers, *response.headers):
            request.responseHeaders.addRawHeader(name, value)
        if response.stream is not None:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            self._stream = response.stream
            request.registerProducer(_Producer(self._stream), True)  # noqa: FBT003 streaming
            self._stream.begin(self)
            return
        if response.status not in NO_BODY_CODES:
            # If render() returned the body, Twisted would set the length, but also with a
            # 204, and it would log a warning about the body of a HEAD.
            length = b"%d" % len(response.body)
            request.responseHeaders.setRawHeaders(b"Content-Length", [length])
        request.write(response.body)
        request.finish()

    def send_piece(self, data: bytes) -> None:
        self._twisted_request.write(data)

    def end_stream(self) -> None:
        if not self._client_gone:
            self._twisted_request.unregisterProducer()
            self._twisted_request.finish()

    def abort(self) -> None:
        self._twisted_request.unregisterProducer()
        cast(ITCPTransport, self._twisted_request.transport).abortConnection()


@implementer(IPushProducer)
class _Producer:
    """
    Tells a stream whether the client takes its bytes.
    """

    def __init__(self, stream: Stream) -> None:
        self.pauseProducing, self.resumeProducing = stream.pause, stream.resume
        self.stopProducing = stream.end


def _address_of(end: IAddress) -> str | None:
    return None if isinstance(end, UNIXAddress) else getattr(end, "host", "")
