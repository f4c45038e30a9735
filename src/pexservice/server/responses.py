"""
The writer of answers: every head that goes over the wire is made here.

An answer about the cursor differs from another one to the same kind of request in three
numbers and the value, so it is made from a format; and the answers to readers of the cursor
do not differ at all until the cursor moves.  Both are made anew once a second, for the
date.  The parts of such an answer are in L{pexservice.web.representations}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.web.http import NO_BODY_CODES, datetimeToString

from pexservice.core.cursor import State
from pexservice.server.plans import Framing, Plan
from pexservice.web.problems import Problem
from pexservice.web.replies import TEXT, Header, Reply
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
    Return the head of an answer.

    Headers of one name follow each other, where the first of them stands.

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

    @param browser_headers: the headers that every answer has for browsers.
    @param bodiless: whether to leave the body out, as in the answer to a HEAD.
    @param length: the length of the body, if the body is not that of C{reply}.
    """
    headers = [*browser_headers, *reply.headers]
    if reply.status not in NO_BODY_CODES:
        # Also in the answer to a HEAD, which says how long the body would be.
        headers.append((b"Content-Length", length or b"%d" % len(reply.body)))
    begin = head(
        framing.version, b"%d" % reply.status, reply.phrase, framing.connection, headers
    )
    return begin if bodiless else begin + reply.body


def _writer(plan: Plan, kind: Kind) -> Callable[[State], bytes]:
    """
    Return the function that makes the answer of C{kind} about a state.
    """
    operation, has_value = plan.operation, kind in WITH_VALUE
    bodiless = operation.method == b"HEAD"
    form = render(
        plan.framing,
        # The rest is made of constants.
        [(name, value.replace(b"%", b"%%")) for name, value in operation.browser_headers],
        reply_about(kind, operation.preferences, b"%d", b"%d", b"%b"),
        bodiless=bodiless,
        length=b"%d" if has_value else None,
    )
    representation = operation.preferences.value

    def text(state: State) -> bytes:
        # Nearly all answers are of this form, so it makes no call that it need not.
        revision, term = state
        digits = term.text
        return form % (revision, term.position, revision, len(digits) + 1, digits + b"\n")

    def value(state: State) -> bytes:
        revision, term = state
        body = state_body(state, representation)
        told = (len(body),) if bodiless else (len(body), body)
        return form % (revision, term.position, revision, *told)

    def no_value(state: State) -> bytes:
        return form % (state.revision, state.position, state.revision)

    if not has_value:
        return no_value
    return text if representation == TEXT and not bodiless else value


class Responses:
    """
    The answers of one worker on the fast path.
    """

    def __init__(self) -> None:
        self._values: dict[Plan, Callable[[State], bytes]] = {}
        self._others: dict[tuple[Plan, Kind], Callable[[State], bytes]] = {}
        self._shown: State | None = None
        self._showing: dict[Plan, bytes] = {}

    def tick(self) -> None:
        """
        Begin another second: forget all that was made with the last one's date.
        """
        self._values.clear()
        self._others.clear()
        self._shown = None

    def problem(self, plan: Plan, problem: Problem) -> bytes:
        """
        Return C{problem} as the answer to a request of C{plan}.
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
        Return the answer of C{kind} about C{state} to a request of C{plan}.
        """
        if kind is not VALUE:
            writer = self._others.get((plan, kind))
            if writer is None:
                writer = self._others[plan, kind] = _writer(plan, kind)
            return writer(state)
        if state is self._shown:
            answer = self._showing.get(plan)
            if answer is not None:
                return answer
        writer = self._values.get(plan)
        if writer is None:
            writer = self._values[plan] = _writer(plan, kind)
        answer = writer(state)
        if plan.operation.transition is None:
            # Made once for all readers.
            if state is not self._shown:
                self._shown = state
                self._showing.clear()
            self._showing[plan] = answer
        return answer
