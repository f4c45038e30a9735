"""
The counters of requests, by endpoint, method and status: plain numbers, for C{/metrics}.

A request on the fast path is counted in the L{Tally} of its plan, so it costs one addition
to an attribute and no look-up.  All other requests were parsed, which costs a thousand
times as much as looking up a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPMethod

from attrs import Factory, define

from pexservice.web.endpoints import BY_PATH, CURSOR

#: The name for every path and every method that does not exist, so that callers
#: cannot make the table larger; and for both where no request was understood.
OTHER = "other"

_METHODS = {method.value.encode(): method.value for method in HTTPMethod}


@define(eq=False)
class Tally:
    """
    The requests for one endpoint by one method that were answered without being parsed.

    @ivar ok: how many were answered 200.
    @ivar others: how many were answered otherwise, by status.
    """

    endpoint: str
    method: str
    ok: int = 0
    others: Counter[int] = Factory(Counter)


class RequestCounters:
    """
    The counters of the requests that one worker has answered.
    """

    def __init__(self) -> None:
        # So the numbers begin at 0 in a graph.
        self._tallies = {
            (each.path, method.decode()): Tally(
                each.path, method.decode(), others=Counter({503: 0})
            )
            for each in CURSOR
            for method in each.methods
            if method != b"HEAD"
        }
        self._parsed: Counter[tuple[str, str, int]] = Counter()

    def tally(self, path: bytes, method: bytes) -> Tally:
        """
        Return the tally of the requests for one endpoint and method that are not parsed.
        """
        key = _names(path, method)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(*key)
        return tally

    def parsed(self, path: bytes, method: bytes, status: int) -> None:
        """
        Count a request that was parsed.
        """
        self._parsed[*_names(path, method), status] += 1

    def refused(self, status: int) -> None:
        """
        Count a request that was not understood, or not waited for.
        """
        self._parsed[OTHER, OTHER, status] += 1

    def hits(self) -> int:
        """
        Return how many requests were answered without being parsed.
        """
        return sum(each.ok + each.others.total() for each in self._tallies.values())

    def misses(self) -> int:
        """
        Return how many requests were parsed.
        """
        return self._parsed.total()

    def answered(self) -> Iterator[tuple[str, str, int, int]]:
        """
        Yield the counts of all answered requests: endpoint, method, status, how many.
        """
        answered = Counter(self._parsed)
        for tally in self._tallies.values():
            for status, count in ((200, tally.ok), *tally.others.items()):
                answered[tally.endpoint, tally.method, status] += count
        for (endpoint, method, status), count in sorted(answered.items()):
            yield endpoint, method, status, count


def _names(path: bytes, method: bytes) -> tuple[str, str]:
    endpoint = BY_PATH.get(path)
    return OTHER if endpoint is None else endpoint.path, _METHODS.get(method, OTHER)
