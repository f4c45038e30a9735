"""
C{If-Match} and C{If-None-Match}, as RFC 9110 section 13 has them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from pexservice.core.cursor import State
from pexservice.web.problems import malformed
from pexservice.web.representations import matches

# One element of a list: maybe a tag, and the comma after it.  Opaque parts may
# have commas in them, so the list cannot simply be split.  Blanks are matched in one
# place only for each way through it, or a long run of them would take its square.
_ELEMENT = re.compile(
    rb'[ \t]*(?:(?P<weak>W/)?"(?P<opaque>[\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|$)'
)


@frozen
class Tags:
    """
    The tags that a precondition lists.

    @ivar anything: the list was C{*}.
    """

    anything: bool
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()

    def match_strongly(self, state: State) -> bool:
        """
        As C{If-Match} compares: a weak tag matches nothing.
        """
        return self.anything or any(matches(tag, state) for tag in self.strong)

    def match_weakly(self, state: State) -> bool:
        """
        As C{If-None-Match} compares.
        """
        return self.anything or any(matches(tag, state) for tag in self.strong | self.weak)

    def name(self, opaque: str) -> bool:
        """
        The same for what is no state, and has C{opaque} for the inside of its tag.
        """
        return self.anything or opaque in self.strong | self.weak


def parse_tags(name: str, values: Sequence[bytes] | None) -> Tags | None:
    """
    @param values: the values of the header C{name}, if the request had any.
    @raise Problem: they are not a list of entity tags.
    """
    if values is None:
        return None
    value = b",".join(values).strip(b" \t")
    if value == b"*":
        return Tags(anything=True)
    strong: set[str] = set()
    weak: set[str] = set()
    at = 0
    while at < len(value):
        element = _ELEMENT.match(value, at)
        if element is None:
            break
        if element["opaque"] is not None:
            (weak if element["weak"] else strong).add(element["opaque"].decode("latin-1"))
        at = element.end()
    if at < len(value) or not strong | weak:
        raise malformed(f'{name} must be * or a list of tags as "12", quotes included')
    return Tags(anything=False, strong=frozenset(strong), weak=frozenset(weak))
