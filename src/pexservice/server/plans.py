"""
Plans: what the server remembers, so that it need not call a handler for each request.

For example, all these requests have the same meaning: they make a step, and accept JSON::

    POST /next HTTP/1.1         POST /next?x=1 HTTP/1.1
    Host: localhost             Host: 127.0.0.1:8081
    Accept: application/json    User-Agent: python-requests/2.32.3
                                Accept: application/json, */*;q=0.5

They have the same I{plan key}, which consists of the method, the path, the version, and the
meanings of a few I{deciding headers}, such as C{Accept}.  For the first of them, the server
calls a handler of the Klein app.  The handler returns an operation on the cursor, and the
server remembers it as the L{Plan} of this key.  If a handler returns a response and not an
operation, the server calls it for each request.
"""

from __future__ import annotations

from attrs import define, frozen

from pexservice.server.parser import RequestHeaders
from pexservice.server.response_writer import ResponseFormat
from pexservice.web.operations import CheckedOperation, Operation

#: How many plans are remembered.  The service needs some hundreds of them: one for each
#: combination of a path, a method, a version and the meanings of the deciding headers.
MAX_PLANS = 4096


@frozen(eq=False)
class Plan:
    """
    The operation of all requests with one plan key, and the format of their responses.
    """

    operation: Operation
    format: ResponseFormat


@define(eq=False)
class PreparedRequest:
    """
    A request that was parsed or recognized, so that a connection can perform it.

    All recognized requests with the same bytes share one such object.

    @ivar logged_line: the request line for the access log.
    @ivar planned_operation: the operation of the request's plan; C{None} if there was no
        plan, so that a handler is called.
    @ivar checked_operation: the operation after C{RequestChecker.check_operation};
        C{None} until these headers have passed this check.
    """

    format: ResponseFormat
    headers: RequestHeaders
    logged_line: bytes
    planned_operation: Operation | None = None
    checked_operation: CheckedOperation | None = None
