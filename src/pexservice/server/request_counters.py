"""
Which requests were answered, and how: plain numbers, for C{/metrics}.

What the memo knows is counted in a L{Tally} that its plan carries, so that a hot
request costs one addition to an attribute and no look-up.  All else was parsed, which
costs a thousand times what looking a number up does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPMethod, HTTPStatus

from attrs import Factory, define

from pexservice.web.endpoints import BY_PATH
from pexservice.web.meaning import Meaning

#: What stands for every path and every method that there is not, so that callers
#: cannot make the table larger; and for both where no request was understood.
OTHER = "other"

_METHODS = {method.value.encode(): method.value for method in HTTPMethod}


@define(eq=False)
class Tally:
    """
    Of the requests for one endpoint by one method that the memo knew.

    @ivar ok: how many were answered as they wanted.
    @ivar refused: how many were not, by their status; 503 is shown also when there were
        none.
    """

    endpoint: str
    method: str
    ok: int = 0
    refused: Counter[int] = Factory(lambda: Counter({HTTPStatus.SERVICE_UNAVAILABLE: 0}))


class Requests:
    """
    Those of one worker that were answered.
    """

    def __init__(self) -> None:
        self._hot = {
            (meaning, method): Tally(f"/{_word(meaning)}", method.decode())
            for meaning in Meaning
            for method in (b"GET", b"POST")
            if (meaning, method) != (Meaning.CURRENT, b"POST")
        }
        self._parsed: Counter[tuple[str, str, int]] = Counter()

    def tally(self, meaning: Meaning, method: bytes) -> Tally:
        """
        Where the memo's requests for C{meaning} are counted.
        """
        return self._hot[meaning, method]

    def parsed(self, path: bytes, method: bytes, status: int) -> None:
        """
        One that was parsed got its answer.
        """
        endpoint = BY_PATH.get(path)
        self._parsed[
            OTHER if endpoint is None else endpoint.path,
            _METHODS.get(method, OTHER),
            status,
        ] += 1

    def refused(self, status: int) -> None:
        """
        One that was not understood, or was not waited for, got an answer.
        """
        self._parsed[OTHER, OTHER, status] += 1

    def hits(self) -> int:
        """
        How many were answered without being parsed.
        """
        return sum(tally.ok + tally.refused.total() for tally in self._hot.values())

    def misses(self) -> int:
        """
        How many were not.
        """
        return self._parsed.total()

    def answered(self) -> Iterator[tuple[str, str, int, int]]:
        """
        All of them: endpoint, method, status, how many.
        """
        answered = Counter(self._parsed)
        for tally in self._hot.values():
            for status, count in ((200, tally.ok), *tally.refused.items()):
                answered[tally.endpoint, tally.method, status] += count
        for (endpoint, method, status), count in sorted(answered.items()):
            yield endpoint, method, status, count


def _word(meaning: Meaning) -> str:
    return "current" if meaning.value is None else meaning.value.word
