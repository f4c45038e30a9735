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

from attrs import define, frozen

from pexservice.server.response_writer import ResponseFormat
from pexservice.web.operations import CheckedOperation, Operation
from pexservice.web.parameters import RequestHeaders

#: How many plans are remembered.  The service needs some hundreds of them: one for each
#: combination of a path, a method, a version and the meanings of the deciding headers.
MAX_PLANS = 4096


@frozen(eq=False)
class Plan:
    """
    The operation of all requests with one plan key, and the format of their responses.
    """

    operation: Operation
    response_format: ResponseFormat


# It is not frozen, only because it takes longer to make a frozen object.
@define(eq=False)
class PreparedRequest:
    """
    A request that a connection can perform.

    It never changes, so all requests with the same bytes can share one object.

    @ivar logged_line: the request line for the access log.
    @ivar operation: what the request asks for.  If the request has no plan, the operation
        is to call the handler.
    """

    response_format: ResponseFormat
    headers: RequestHeaders
    logged_line: bytes
    operation: CheckedOperation
    has_plan: bool = True
