"""
The preconditions C{If-Match} and C{If-None-Match} of RFC 9110, section 13.

A precondition lists ETags of states of the cursor, or of a document such as the live page.
The I{opaque part} of an ETag is the text between its quotes.  A tag that begins with C{W/}
is weak; any other tag is strong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, lru_cache
from hashlib import sha256
from http import HTTPStatus

from attrs import define, frozen

from pexservice.core.cursor import State
from pexservice.web.problems import malformed
from pexservice.web.responses import ETAG_SUFFIXES, Header, Response

# An element of a list: a tag, which may be missing, and the comma after it.  A list cannot
# be split at its commas, because opaque parts may contain commas too.  Each blank can match
# at one place of the pattern only.  Otherwise many blanks in a row would take quadratic
# time.
_TAG_IN_LIST = re.compile(
    rb'[ \t]*(?:(?P<weak>W/)?"(?P<opaque>[\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|$)'
)

# Nearly all clients send one strong tag.
_ONE_TAG = re.compile(rb'"([\x21\x23-\x7e\x80-\xff]*)"')


@lru_cache(maxsize=8)
def etags_of(revision: int) -> tuple[bytes, ...]:
    """
    Return the opaque parts of a state's ETags.  Each representation has its own ETag.
    """
    return tuple([b"%d%b" % (revision, suffix) for suffix in ETAG_SUFFIXES.values()])


@define(eq=False)
class ETags:
    """
    The tags that a precondition lists.

    @ivar anything: whether the list was C{*}.
    @ivar strong: the opaque parts of the strong tags.
    @ivar weak: the opaque parts of the weak tags.
    """

    anything: bool
    strong: AbstractSet[bytes] = frozenset()
    weak: AbstractSet[bytes] = frozenset()

    def match_strongly(self, state: State) -> bool:
        """
        Return whether C{If-Match} lists C{state}.  In C{If-Match}, weak tags never match.
        """
        return self.anything or not self.strong.isdisjoint(etags_of(state.revision))

    def match_weakly(self, state: State) -> bool:
        """
        Return whether C{If-None-Match} lists C{state}, by a strong or a weak tag.
        """
        tags = etags_of(state.revision)
        if self.anything or not self.strong.isdisjoint(tags):
            return True
        return bool(self.weak) and not self.weak.isdisjoint(tags)

    def lists(self, opaque: str) -> bool:
        """
        Return whether a strong or weak tag with this opaque part is listed.
        """
        tag = opaque.encode()
        return self.anything or tag in self.strong or tag in self.weak


@define(eq=False)
class Preconditions:
    if_match: ETags | None = None
    if_none_match: ETags | None = None

    def if_match_holds(self, state: State) -> bool:
        return self.if_match is None or self.if_match.match_strongly(state)

    def met_by(self, state: State) -> bool:
        if_match, if_none_match = self.if_match, self.if_none_match
        if if_match is not None and not if_match.match_strongly(state):
            return False
        return if_none_match is None or not if_none_match.match_weakly(state)


@frozen
class Document:
    """
    A document that does not change while the process runs.

    A client may store it, and asks each time whether it has changed.  Usually the response
    is a short 304.

    @ivar headers: further headers of a response with the document.
    @ivar tag_suffix: the end of C{tag}, which is the opaque part of the document's ETag.
    """

    body: bytes
    content_type: bytes
    headers: tuple[Header, ...] = ()
    tag_suffix: str = ""

    @cached_property
    def tag(self) -> str:
        return f"{sha256(self.body).hexdigest()[:16]}{self.tag_suffix}"

    def response(self, if_none_match: ETags | None) -> Response:
        """
        Return the document, or a 304 if the client already has it.
        """
        headers = (
            (b"ETag", f'"{self.tag}"'.encode()),
            (b"Cache-Control", b"no-cache"),
            *self.headers,
        )
        if if_none_match is not None and if_none_match.lists(self.tag):
            return Response(HTTPStatus.NOT_MODIFIED, headers)
        content_type = (b"Content-Type", self.content_type)
        return Response(HTTPStatus.OK, (content_type, *headers), self.body)


UNCONDITIONAL = Preconditions()


def parse_etags(name: str, values: Sequence[bytes]) -> ETags:
    """
    Return the tags that a precondition lists.

    @param values: the values of the header C{name}.
    @raise Problem: 400 if the values are not a list of ETags.
    """
    if len(values) == 1:
        match = _ONE_TAG.fullmatch(values[0])
        if match is not None:
            return ETags(False, {match[1]})  # noqa: FBT003 faster than by keyword
    value = b",".join(values).strip(b" \t")
    if value == b"*":
        return ETags(anything=True)
    strong: set[bytes] = set()
    weak: set[bytes] = set()
    parsed_bytes = 0
    while parsed_bytes < len(value):
        element = _TAG_IN_LIST.match(value, parsed_bytes)
        if element is None:
            break
        if element["opaque"] is not None:
            (weak if element["weak"] else strong).add(element["opaque"])
        parsed_bytes = element.end()
    if parsed_bytes < len(value) or not strong | weak:
        raise malformed(f'{name} must be * or a list of tags as "12", quotes included')
    return ETags(anything=False, strong=strong, weak=weak)
