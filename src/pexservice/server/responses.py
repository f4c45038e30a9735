"""
The writer of answers: every head that goes over the wire is made here.

An answer about the cursor differs from another one to the same kind of request in three
numbers and the value, so it is made from a format; and what readers of the cursor are
told differs in nothing until the cursor moves.  Both are made anew once a second, for the
date.  What such an answer consists of is said in L{pexservice.web.representations}.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.web.http import NO_BODY_CODES, datetimeToString

from pexservice.core.cursor import State
from pexservice.server.plans import Framing, Plan
from pexservice.web.problems import Problem
from pexservice.web.replies import Header, Reply
from pexservice.web.representations import (
    VALUE,
    WITH_VALUE,
    Kind,
    reply_about,
    state_body,
)


def head(
    version: bytes,
    status: bytes,
    phrase: bytes,
    connection: bytes | None,
    headers: Iterable[Header],
) -> bytes:
    """
    Return the head of an answer.  Headers of one name follow each other, where the first
    of them stands.

    @param connection: the value of its C{Connection}, if it has one.
    """
    lines = [b"%b %b %b\r\n" % (version, status, phrase)]
    if connection is not None:
        lines.append(b"Connection: %b\r\n" % connection)
    lines.append(b"Date: %b\r\n" % datetimeToString())
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        lines += [b"%b: %b\r\n" % (name, value) for value in values]
    lines.append(b"\r\n")
    return b"".join(lines)


def render(
    framing: Framing,
    browser_headers: Iterable[Header],
    reply: Reply,
    *,
    bodiless: bool = False,
    length: bytes | None = None,
) -> bytes:
    """
    Return C{reply} as it goes over the wire.

    @param browser_headers: what every answer tells a browser.
    @param bodiless: whether to leave the body out, as in the answer to a HEAD.
    @param length: that of the body, if it is another one.
    """
    headers = [*browser_headers, *reply.headers]
    if reply.status not in NO_BODY_CODES:
        # Also in the answer to a HEAD, which says how long the body would be.
        headers.append((b"Content-Length", length or b"%d" % len(reply.body)))
    begin = head(
        framing.version, b"%d" % reply.status, reply.phrase, framing.connection, headers
    )
    return begin if bodiless else begin + reply.body


def _format(plan: Plan, kind: Kind) -> bytes:
    """
    Return a format for the revision, the position and the revision, and where the value
    is told for its length and, except to a HEAD, for the value.
    """
    operation = plan.operation
    reply = reply_about(kind, operation.preferences, b"%d", b"%d", b"%b")
    return render(
        plan.framing,
        # The rest is made of constants.
        [(name, value.replace(b"%", b"%%")) for name, value in operation.browser_headers],
        reply,
        bodiless=operation.method == b"HEAD",
        length=b"%d" if kind in WITH_VALUE else None,
    )


class Responses:
    """
    The answers of one worker on the fast path.
    """

    def __init__(self) -> None:
        self._values: dict[Plan, bytes] = {}
        self._others: dict[tuple[Plan, Kind], bytes] = {}
        self._shown: State | None = None
        self._showing: dict[Plan, bytes] = {}

    def tick(self) -> None:
        """
        Forget what says the time: it is another second.
        """
        self._values.clear()
        self._others.clear()
        self._shown = None

    def problem(self, plan: Plan, problem: Problem) -> bytes:
        """
        Return the answer that tells C{problem}.
        """
        operation = plan.operation
        return render(
            plan.framing,
            operation.browser_headers,
            problem.reply(operation.preferences.problem),
            bodiless=operation.method == b"HEAD",
        )

    def about(self, plan: Plan, kind: Kind, state: State) -> bytes:
        """
        Return the answer that tells C{kind} of C{state}.
        """
        if kind is VALUE:
            found = self._values.get(plan)
            if found is None:
                found = self._values[plan] = _format(plan, kind)
        else:
            found = self._others.get((plan, kind))
            if found is None:
                found = self._others[plan, kind] = _format(plan, kind)
        revision, term = state
        if kind not in WITH_VALUE:
            return found % (revision, term.position, revision)
        operation = plan.operation
        body = state_body(state, operation.preferences.value)
        if operation.method == b"HEAD":
            return found % (revision, term.position, revision, len(body))
        return found % (revision, term.position, revision, len(body), body)

    def current(self, plan: Plan, state: State) -> bytes:
        """
        Return the answer that tells the value at C{state}, made once for all readers.
        """
        if state is not self._shown:
            self._shown = state
            self._showing.clear()
        answer = self._showing.get(plan)
        if answer is None:
            answer = self._showing[plan] = self.about(plan, VALUE, state)
        return answer
