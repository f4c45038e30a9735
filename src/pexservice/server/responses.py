"""
The answers to what the memo knows, byte for byte as Twisted would send them.

The head of an answer about a state differs from the last one's in three numbers, so
it is made from a template; and a look at the cursor differs in nothing until the
cursor moves.  Both are made anew once a second, for the date.

The templates are made from L{pexservice.web.representations}, so that what an answer
about the cursor consists of is said once.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from twisted.web.http import datetimeToString

from pexservice.core.cursor import State
from pexservice.core.sequence import Term
from pexservice.server.plan_cache import Variant
from pexservice.web.replies import TEXT, Header, Reply
from pexservice.web.representations import state_reply

# A state whose numbers are nowhere else in an answer about it.
_REVISION, _POSITION, _VALUE = 7777777771, 7777777772, 7777777773
_PROBE = State(_REVISION, Term(_POSITION, Decimal(_VALUE), Decimal(0)))


def render(reply: Reply, variant: Variant, told: Sequence[Header]) -> bytes:
    """
    Return C{reply} as it goes over the wire.

    @param told: what every answer tells a browser.
    """
    lines = [b"%b %d %b" % (variant.version, reply.status, reply.phrase)]
    if variant.connection is not None:
        lines.append(b"Connection: " + variant.connection)
    lines.append(b"Date: " + datetimeToString())
    lines += [b"%b: %b" % header for header in (*told, *reply.headers)]
    lines.append(b"Content-Length: %d" % len(reply.body))
    return b"\r\n".join([*lines, b"", reply.body])


def _template(variant: Variant, told: Sequence[Header]) -> bytes:
    """
    Return a format for the revision, the position, the revision, the length and the text.
    """
    template = render(state_reply(_PROBE, TEXT), variant, told).replace(b"%", b"%%")
    for number in (_REVISION, _POSITION):
        template = template.replace(b"%d" % number, b"%d")
    text = _PROBE.term.text
    template = template.replace(
        b"Content-Length: %d" % (len(text) + 1), b"Content-Length: %d"
    )
    return template.replace(text, b"%b")


class Answers:
    """
    Of one worker.
    """

    def __init__(self, told: Sequence[Header]) -> None:
        """
        @param told: what every answer tells a browser.
        """
        self._told = told
        self._templates: dict[Variant, bytes] = {}
        self._shown: State | None = None
        self._showing: dict[Variant, bytes] = {}

    def tick(self) -> None:
        """
        It is another second.
        """
        self._templates.clear()
        self._shown = None

    def refused(self, reply: Reply, variant: Variant) -> bytes:
        """
        Return the answer to a step that was not made.
        """
        return render(reply, variant, self._told)

    def moved(self, state: State, variant: Variant) -> bytes:
        """
        The answer to a step that led to C{state}.
        """
        template = self._templates.get(variant)
        if template is None:
            template = self._templates[variant] = _template(variant, self._told)
        revision, term = state
        text = term.text
        return template % (revision, term.position, revision, len(text) + 1, text)

    def current(self, state: State, variant: Variant) -> bytes:
        """
        The answer to a look at the cursor, which is at C{state}.
        """
        if state is not self._shown:
            self._shown = state
            self._showing.clear()
        answer = self._showing.get(variant)
        if answer is None:
            answer = self._showing[variant] = self.moved(state, variant)
        return answer
