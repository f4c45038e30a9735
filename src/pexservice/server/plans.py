"""
Plans, which say what requests mean.

The I{plan key} of a request has its method, path and version, and the meanings of the
headers that decide what the request means.  All requests with the same plan key mean the
same.

For the first request with a plan key, the server calls a handler of the Klein app.  If the
handler returns an operation on the cursor, the server remembers the plan with this
operation.  For later requests with this plan key, the server calls no handler.
"""

from __future__ import annotations

from attrs import define, frozen

from pexservice.server.parser import PlanKey, RequestHeaders
from pexservice.server.request_counters import Tally
from pexservice.web.operations import CheckedOperation, Operation
from pexservice.web.parameters import Preferences
from pexservice.web.responses import Header

#: How many plans are remembered.  The service needs some hundreds of them: one for each
#: combination of a path, a method, a version and the meanings of the deciding headers.
MAX_PLANS = 4096


@frozen(eq=False)
class Plan:
    """
    What the requests with one plan key mean, and what all their responses have in common.

    @ivar operation: the operation on the cursor.  C{None} if the request was refused, if
        its handler has not returned yet, or if its handler has returned a response.  A plan
        without an operation is used for one request only and is not remembered.
    @ivar tally: counts the responses.
    @ivar version: the version of HTTP, such as C{b"HTTP/1.1"}.
    @ivar connection_header: the value of the responses' C{Connection} header, if any.
    @ivar closes_connection: whether the connection ends after the response.
    @ivar browser_headers: the headers that browsers need in every response.
    @ivar omits_body: whether the responses have no body, because the request is a HEAD.
    """

    operation: Operation | None
    tally: Tally
    version: bytes
    connection_header: bytes | None
    closes_connection: bool
    browser_headers: tuple[Header, ...]
    preferences: Preferences
    omits_body: bool


@define(eq=False)
class RequestWithPlan:
    """
    A request with its plan.

    @ivar logged_line: the request line for the access log.
    @ivar checked_operation: the operation, if it has passed the check with these headers.
        If C{None}, the connection checks it.
    """

    plan: Plan
    headers: RequestHeaders
    logged_line: bytes
    checked_operation: CheckedOperation | None = None


class Plans:
    """
    The plans of one worker.

    @ivar by_key: the plans by their plan keys.
    """

    def __init__(self) -> None:
        self.by_key: dict[PlanKey, Plan] = {}
        self._is_stopped = False

    def add(self, key: PlanKey, plan: Plan) -> None:
        if not self._is_stopped and len(self.by_key) < MAX_PLANS:
            self.by_key[key] = plan

    def stop(self) -> None:
        """
        Forget all plans, and remember no more.
        """
        self._is_stopped = True
        self.by_key.clear()
