"""
The response that docs/http-api.md promises for each request, computed from plain values.

Nothing here uses the code of the service; even the Fibonacci numbers are sums of integers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from attrs import Factory, define, frozen

WORDS = ("next", "previous", "reset")

#: How many transitions the service keeps by default, and how many it lists by default.
KEPT_TRANSITIONS = 100_000
DEFAULT_LIMIT = 100


@frozen(kw_only=True)
class Request:
    """
    A request without its path.

    @ivar key: the idempotency key.
    @ivar match: the tags of C{If-Match}, as they are sent.
    @ivar none_match: the tags of C{If-None-Match}.
    """

    method: str = "GET"
    json: bool = False
    key: str | None = None
    match: tuple[str, ...] | None = None
    none_match: tuple[str, ...] | None = None

    def headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"} if self.json else {}
        if self.key is not None:
            headers["Idempotency-Key"] = self.key
        if self.match is not None:
            headers["If-Match"] = ", ".join(self.match)
        if self.none_match is not None:
            headers["If-None-Match"] = ", ".join(self.none_match)
        return headers


@frozen
class ExpectedResponse:
    """
    A response that the service should send.

    @ivar headers: the headers of the response; a header with the value L{None} must be
        absent.
    @ivar body: the body, or L{None} if it is checked in another way.
    """

    status: int
    headers: dict[str, str | None]
    body: bytes | None = None


_TERMS = [0, 1]


def fibonacci(position: int) -> int:
    """
    Return F(C{position}).
    """
    while len(_TERMS) <= position:
        _TERMS.append(_TERMS[-1] + _TERMS[-2])
    return _TERMS[position]


@define
class Model:
    """
    A model of the cursor.

    @ivar base: the revision at which the model began; it does not know earlier steps.
    @ivar rows: by revision, the position and the kind of the step.
    @ivar keys: by key, the kind, the revision and the position of the step of its first
        use.
    """

    revision: int
    position: int
    base: int
    rows: dict[int, tuple[int, str]] = Factory(dict)
    keys: dict[str, tuple[str, int, int]] = Factory(dict)

    def try_step(self, word: str, request: Request) -> ExpectedResponse:
        """
        Make a step if its key and its preconditions allow it, and return the response.
        """
        if request.key in self.keys:
            used, revision, position = self.keys[request.key]
            if used != word:
                return problem(422, "key-reused", request)
            return self.state(request, revision, position, replayed=True)
        if failed := self._check_preconditions(request):
            return failed
        self.apply_step(word)
        if request.key is not None:
            self.keys[request.key] = (word, self.revision, self.position)
        return self.state(request, self.revision, self.position)

    def apply_step(self, word: str) -> None:
        """
        Add one to the position, subtract one down to 0, or set it to 0.
        """
        up_or_down = {"next": self.position + 1, "previous": max(self.position - 1, 0)}
        self.position = up_or_down.get(word, 0)
        self.revision += 1
        self.rows[self.revision] = (self.position, word)

    def current(self, request: Request) -> ExpectedResponse:
        """
        Return the response to a read.
        """
        return self._check_preconditions(request) or self.state(
            request, self.revision, self.position
        )

    def history(self, request: Request) -> ExpectedResponse:
        """
        Return the status and the headers of a history; L{page_revisions} gives its rows.
        """
        return self._check_preconditions(request) or ExpectedResponse(
            200, self._state_headers(request, self.revision, self.position)
        )

    def page_revisions(
        self, before: int | None, limit: int | None
    ) -> tuple[range, int | None]:
        """
        Return the revisions on a page of the history, and where the next page begins.
        """
        end = self.revision + 1 if before is None else min(before, self.revision + 1)
        oldest = max(self.revision - KEPT_TRANSITIONS, 0) + 1
        first = max(end - (DEFAULT_LIMIT if limit is None else limit), oldest)
        revisions = range(end - 1, first - 1, -1)
        more = bool(revisions) and first > oldest
        return revisions, first if more else None

    def state(
        self, request: Request, revision: int, position: int, *, replayed: bool = False
    ) -> ExpectedResponse:
        """
        Return the response that shows the cursor at C{revision} and C{position}.
        """
        headers = self._state_headers(request, revision, position)
        headers["Idempotency-Replayed"] = "true" if replayed else None
        value = str(fibonacci(position))
        body = f"{value}\n"
        if request.json:
            fields = {
                "position": position,
                "current": value,
                "previous": str(fibonacci(position - 1)) if position else None,
                "next": str(fibonacci(position + 1)),
                "revision": revision,
            }
            body = json.dumps(fields, separators=(",", ":")) + "\n"
        return ExpectedResponse(200, headers, body.encode())

    def _state_headers(
        self, request: Request, revision: int, position: int
    ) -> dict[str, str | None]:
        content_type = "application/json" if request.json else "text/plain; charset=utf-8"
        return {
            "Pex-Revision": str(revision),
            "Pex-Position": str(position),
            "ETag": f'"{revision}-json"' if request.json else f'"{revision}"',
            "Cache-Control": "no-store",
            "Vary": "Accept",
            "Content-Type": content_type,
        }

    def _matches(self, tags: Sequence[str] | None, *, weakly: bool) -> bool:
        if tags is None or tags == ("*",):
            return True
        current_tags = {f'"{self.revision}"', f'"{self.revision}-json"'}
        if weakly:
            current_tags |= {f"W/{tag}" for tag in current_tags}
        return not current_tags.isdisjoint(tags)

    def _check_preconditions(self, request: Request) -> ExpectedResponse | None:
        headers = self._state_headers(request, self.revision, self.position)
        refusal = problem(412, "precondition-failed", request)
        precondition_failed = ExpectedResponse(412, headers | refusal.headers)
        if not self._matches(request.match, weakly=False):
            return precondition_failed
        if request.none_match is None or not self._matches(request.none_match, weakly=True):
            return None
        if request.method == "POST":
            return precondition_failed
        # The client reads a state that it already has.
        return ExpectedResponse(304, headers | {"Content-Type": None}, b"")


def problem(status: int, name: str, request: Request) -> ExpectedResponse:
    """
    Return a refusal; its body has C{name} for clients that accept JSON.
    """
    content_type = (
        "application/problem+json" if request.json else "text/plain; charset=utf-8"
    )
    return ExpectedResponse(
        status, {"Content-Type": content_type, "Cache-Control": "no-store", "X-Name": name}
    )
