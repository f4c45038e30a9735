"""
The answer that each request should get, by docs/http-api.md, from a few plain values.

Pure, and nothing here is the service's: its Fibonacci numbers are sums of integers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from attrs import Factory, define, frozen

WORDS = ("next", "previous", "reset")

#: How many transitions the service keeps by default, and answers by default.
JOURNAL = 100_000
ROWS = 100


@frozen(kw_only=True)
class Wish:
    """
    A request without its path.

    @ivar key: its idempotency key.
    @ivar match: the tags of its C{If-Match}, as they are written.
    @ivar none_match: the tags of its C{If-None-Match}.
    """

    method: str = "GET"
    json: bool = False
    key: str | None = None
    match: tuple[str, ...] | None = None
    none_match: tuple[str, ...] | None = None

    def headers(self) -> dict[str, str]:
        """
        Return the headers as they are sent.
        """
        headers = {"Accept": "application/json"} if self.json else {}
        if self.key is not None:
            headers["Idempotency-Key"] = self.key
        if self.match is not None:
            headers["If-Match"] = ", ".join(self.match)
        if self.none_match is not None:
            headers["If-None-Match"] = ", ".join(self.none_match)
        return headers


@frozen
class Expected:
    """
    An answer as it should be.

    @ivar headers: the headers that the answer must have; with L{None}, must not have.
    @ivar body: L{None} where the body is checked in another way only.
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

    @ivar revision: as the service has it.
    @ivar base: the revision that the model began with; the steps before are not known.
    @ivar rows: by revision, the position that it led to, and by which step.
    @ivar keys: what the first use of each did: the step, the revision, the position.
    """

    revision: int
    position: int
    base: int
    rows: dict[int, tuple[int, str]] = Factory(dict)
    keys: dict[str, tuple[str, int, int]] = Factory(dict)

    def move(self, word: str, wish: Wish) -> Expected:
        """
        Make a step, if it is to be made, and return the answer.
        """
        if wish.key in self.keys:
            used, revision, position = self.keys[wish.key]
            if used != word:
                return problem(422, "key-reused", wish)
            return self.state(wish, revision, position, replayed=True)
        if not self._matches(wish.match, weakly=False):
            return self._unmet(wish)
        if wish.none_match is not None and self._matches(wish.none_match, weakly=True):
            # A GET whose precondition fails is a read of a state that the client has.
            return self._known(wish) if wish.method == "GET" else self._unmet(wish)
        self.step(word)
        if wish.key is not None:
            self.keys[wish.key] = (word, self.revision, self.position)
        return self.state(wish, self.revision, self.position)

    def step(self, word: str) -> None:
        """
        Move up by one, down by one but not below 0, or to 0.
        """
        up_or_down = {"next": self.position + 1, "previous": max(self.position - 1, 0)}
        self.position = up_or_down.get(word, 0)
        self.revision += 1
        self.rows[self.revision] = (self.position, word)

    def current(self, wish: Wish) -> Expected:
        """
        Return the answer to a look.
        """
        return self._unless_known(wish) or self.state(wish, self.revision, self.position)

    def history(self, wish: Wish) -> Expected:
        """
        Return the headers and status of a history; see L{listed} for its rows.
        """
        return self._unless_known(wish) or Expected(
            200, self._present(wish, self.revision, self.position)
        )

    def listed(self, before: int | None, limit: int | None) -> tuple[range, int | None]:
        """
        Choose the revisions of a history.

        @return: the revisions that a history has, and where the next page begins.
        """
        end = self.revision + 1 if before is None else min(before, self.revision + 1)
        oldest = max(self.revision - JOURNAL, 0) + 1
        first = max(end - (ROWS if limit is None else limit), oldest)
        revisions = range(end - 1, first - 1, -1)
        more = bool(revisions) and first > oldest
        return revisions, first if more else None

    def state(
        self, wish: Wish, revision: int, position: int, *, replayed: bool = False
    ) -> Expected:
        """
        Return the answer that shows the cursor at C{revision} and C{position}.
        """
        headers = self._present(wish, revision, position)
        headers["Idempotency-Replayed"] = "true" if replayed else None
        value = str(fibonacci(position))
        body = f"{value}\n"
        if wish.json:
            shown = {
                "position": position,
                "current": value,
                "previous": str(fibonacci(position - 1)) if position else None,
                "next": str(fibonacci(position + 1)),
                "revision": revision,
            }
            body = json.dumps(shown, separators=(",", ":")) + "\n"
        return Expected(200, headers, body.encode())

    def _present(self, wish: Wish, revision: int, position: int) -> dict[str, str | None]:
        kind = "application/json" if wish.json else "text/plain; charset=utf-8"
        return {
            "Pex-Revision": str(revision),
            "Pex-Position": str(position),
            "ETag": f'"{revision}-json"' if wish.json else f'"{revision}"',
            "Cache-Control": "no-store",
            "Vary": "Accept",
            "Content-Type": kind,
        }

    def _matches(self, tags: Sequence[str] | None, *, weakly: bool) -> bool:
        if tags is None or tags == ("*",):
            return True
        ours = {f'"{self.revision}"', f'"{self.revision}-json"'}
        if weakly:
            ours |= {f"W/{tag}" for tag in ours}
        return not ours.isdisjoint(tags)

    def _unless_known(self, wish: Wish) -> Expected | None:
        if not self._matches(wish.match, weakly=False):
            return self._unmet(wish)
        if wish.none_match is not None and self._matches(wish.none_match, weakly=True):
            return self._known(wish)
        return None

    def _known(self, wish: Wish) -> Expected:
        headers = self._present(wish, self.revision, self.position)
        return Expected(304, headers | {"Content-Type": None}, b"")

    def _unmet(self, wish: Wish) -> Expected:
        expected = problem(412, "precondition-failed", wish)
        present = self._present(wish, self.revision, self.position)
        return Expected(412, present | expected.headers)


def problem(status: int, name: str, wish: Wish) -> Expected:
    """
    Return a refusal; C{name} is in the body for clients that read JSON.
    """
    kind = "application/problem+json" if wish.json else "text/plain; charset=utf-8"
    return Expected(
        status, {"Content-Type": kind, "Cache-Control": "no-store", "X-Name": name}
    )
