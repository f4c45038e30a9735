"""
Plans, which say what requests mean.

The I{plan key} of a request has its method, path and version, and the meanings of the
headers that decide what the request means.  All requests with the same plan key mean the
same.

For the first request with a plan key, the server calls a handler of the Klein app.  If the
handler returns an operation on the cursor, the server remembers this operation as a plan,
and calls no handler for later requests with this plan key.
"""

from __future__ import annotations

from attrs import define, frozen

from pexservice.server.parser import PlanKey, RequestHeaders
from pexservice.server.response_writer import ResponseFormat
from pexservice.web.operations import CheckedOperation, Operation

#: How many plans are remembered.  The service needs some hundreds of them: one for each
#: combination of a path, a method, a version and the meanings of the deciding headers.
MAX_PLANS = 4096


@frozen(eq=False)
class Plan:
    """
    What the requests with one plan key mean, and the format of their responses.
    """

    operation: Operation
    format: ResponseFormat


@define(eq=False)
class PreparedRequest:
    """
    A request that a connection can perform.

    @ivar logged_line: the request line for the access log.
    @ivar planned_operation: the operation of the request's plan.  C{None} if there was no
        plan, so that the request's handler is called.
    @ivar checked_operation: the operation, if it has passed the check with these headers.
        If C{None}, the connection checks it.
    """

    format: ResponseFormat
    headers: RequestHeaders
    logged_line: bytes
    planned_operation: Operation | None = None
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
