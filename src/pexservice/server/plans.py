"""
A plan is what the server remembers of a handler's result, to call the handler only once.

For example, all these requests have the same meaning: they make a step, and accept JSON::

    POST /next HTTP/1.1         POST /next?x=1 HTTP/1.1
    Host: localhost             Host: 127.0.0.1:8081
    Accept: application/json    User-Agent: python-requests/2.32.3
                                Accept: application/json, */*;q=0.5

They have the same I{plan key}, which consists of the method, the path, the version, and the
meanings of a few I{deciding headers}, such as C{Accept}.  For the first request with a plan
key, the server calls a handler of the Klein app.  The handler returns an operation on the
cursor, such as a step to the next position.  The server remembers this operation as the
L{Plan} of the key.  If the handler returns a response, there is no plan, and the server
calls the handler for each request with this key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from attrs import define, frozen

from pexservice.commit.interface import Waiter
from pexservice.server.response_writer import ResponseFormat
from pexservice.web.operations import Operation, RequestChecker
from pexservice.web.parameters import RequestHeaders
from pexservice.web.preconditions import UNCONDITIONAL, Preconditions
from pexservice.web.problems import Problem

#: How many plans are remembered.  The service needs some hundreds of them: one for each
#: combination of a path, a method, a version and the meanings of the deciding headers.
MAX_PLANS = 4096


# It is not frozen, only because it takes longer to make a frozen object.
@define(eq=False)
class PreparedRequest:
    """
    A request that a connection can perform.

    It never changes, so all requests with the same bytes can share one object.

    @ivar logged_line: the request line for the access log.
    @ivar start: starts what the request asks for, and gives the outcome to the waiter.  It
        starts an operation, or calls the handler, or refuses the request.
    @ivar must_check_rate_and_host: whether the rate and the C{Host} must be checked before
        the start.
    @ivar method: the HTTP method, if the request has a plan.
    @ivar is_new: whether the request had no plan, so that a handler is called.
    """

    response_format: ResponseFormat
    headers: RequestHeaders
    logged_line: bytes
    start: Callable[[Waiter], None]
    must_check_rate_and_host: bool = True
    method: bytes = b""
    preconditions: Preconditions = UNCONDITIONAL
    is_new: bool = False


@frozen(eq=False)
class Plan:
    """
    The operation of all requests with one plan key, and the format of their responses.

    @ivar checker: checks each request before its operation.
    """

    operation: Operation
    response_format: ResponseFormat
    checker: RequestChecker

    def prepare(self, headers: RequestHeaders, logged_line: bytes) -> PreparedRequest:
        """
        Check the access, the key and the preconditions of a request with this plan.

        The rate and the C{Host} must be checked first, and are not checked yet.  So if the
        check fails, the returned request gets the problem when it is started.
        """
        checker, operation = self.checker, self.operation
        preconditions = UNCONDITIONAL
        try:
            start, preconditions = checker.check_operation(operation, headers)
        except Problem as error:
            # The traceback would keep the headers, and with them a token, in memory.
            start = partial(_refuse, error.with_traceback(None))
        return PreparedRequest(
            self.response_format,
            headers,
            logged_line,
            start,
            checker.must_check_rate_and_host(headers),
            operation.method,
            preconditions,
        )


def _refuse(problem: Problem, waiter: Waiter) -> None:
    waiter.fail(problem)
