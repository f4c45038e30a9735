"""
The counters of requests, by endpoint, method and status; L{pexservice.metrics} reads them.

The L{ResponseFormat<pexservice.server.response_writer.ResponseFormat>} of a request has the
L{Tally} for its endpoint and method.  So counting a response takes one addition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPMethod, HTTPStatus

from attrs import Factory, define

from pexservice.web.endpoints import DEFAULT_TABLE, ENDPOINTS

#: Stands for all paths and all methods that do not exist, so that clients cannot make the
#: table larger.  A malformed request is counted with this path and this method.
OTHER = "other"

_METHODS = {method.value.encode(): method.value for method in HTTPMethod}


@define(eq=False)
class Tally:
    """
    The number of responses to requests for one endpoint by one method.

    @ivar ok: how many responses had status 200.
    @ivar others: how many responses had each other status.
    """

    endpoint: str
    method: str
    ok: int = 0
    others: Counter[int] = Factory(Counter)


class RequestCounters:
    """
    The counters of the requests that one worker has responded to.

    @ivar without_plan: how many requests had no plan.  C{refused_tally} is included.
    @ivar refused_tally: counts the requests that were malformed or too slow, and the
        refused connections that got a 503.
    """

    def __init__(self) -> None:
        self.without_plan = 0
        self.refused_tally = Tally(OTHER, OTHER)
        # These entries exist from the start, so that the graphs of a new worker begin at 0.
        self._tallies = {
            (endpoint.path, method.decode()): Tally(
                endpoint.path, method.decode(), others=Counter({200: 0, 503: 0})
            )
            for endpoint in ENDPOINTS
            if endpoint.moves_cursor or endpoint.path == "/current"
            for method in endpoint.methods
            if method != b"HEAD"
        }
        self._tallies[OTHER, OTHER] = self.refused_tally

    def tally(self, path: bytes, method: bytes) -> Tally:
        endpoint = path.decode() if path in DEFAULT_TABLE.by_path else OTHER
        key = endpoint, _METHODS.get(method, OTHER)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(*key)
        return tally

    def with_plan(self) -> int:
        return sum(count for *_, count in self.responses()) - self.without_plan

    def responses(self) -> Iterator[tuple[str, str, int, int]]:
        """
        Yield the endpoint, method, status and number of the responses that were counted.
        """
        for tally in self._tallies.values():
            counts = Counter(tally.others)
            if tally.ok or HTTPStatus.OK in counts:
                counts[HTTPStatus.OK.value] += tally.ok
            for status, count in sorted(counts.items()):
                yield tally.endpoint, tally.method, status, count
