"""
Tests of the parser of Accept.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from pexservice.web.parameters import MAX_ACCEPT_BYTES, preferred_type

OFFERS = ("text/plain", "application/json", "application/problem+json")

RANGES = st.sampled_from(
    [*OFFERS, "text/html", "text/*", "application/*", "*/*", "TEXT/Plain", "image/webp"]
)
BLANKS = st.sampled_from(["", " ", "\t", "  "])
WEIGHTS = st.sampled_from(
    ["", *(f";q={quality}" for quality in ("0", "1", "0.5", "0.35", "1.0"))]
)
PARAMETERS = st.sampled_from(
    ["", ";charset=utf-8", ';x="a,b;q=0"', r';x="a\"b,text/html"', ";level=1;v=b3", ";X=y"]
)


@st.composite
def well_formed(draw: st.DrawFn) -> str:
    """
    Draw a well-formed value of C{Accept}, as RFC 9110 defines it.
    """
    elements = []
    for _ in range(draw(st.integers(1, 6))):
        weight = draw(WEIGHTS)
        parameters = draw(BLANKS) + draw(PARAMETERS) if weight else draw(PARAMETERS)
        before, after = draw(BLANKS), draw(BLANKS)
        elements.append(f"{before}{draw(RANGES)}{parameters}{weight}{after}")
    return ",".join(elements)


def werkzeugs(offers: tuple[str, ...], value: str) -> str:
    """
    Return the offer that werkzeug prefers, when the parameters of ranges are left out.
    """
    parsed = parse_accept_header(value, MIMEAccept)
    plain = MIMEAccept(
        (kind.partition(";")[0].strip(), quality) for kind, quality in parsed
    )
    return plain.best_match(offers, default=offers[0])


@given(well_formed())
@example("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8")
@example("application/json, text/plain;q=0, */*;q=0.1")
@example("text/plain;q=0.7, text/plain;format=flowed;q=0.2, application/json;q=0.5")
def test_well_formed_accept_means_what_werkzeug_reads(value: str) -> None:
    if len(value) <= MAX_ACCEPT_BYTES:
        for offers in (OFFERS, ("text/plain", "application/json", "text/html")):
            assert preferred_type(offers, [value.encode()]) == werkzeugs(offers, value)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, 0),
        ([], 0),
        ([b""], 0),
        ([b"application/json"], 1),
        ([b"image/png", b"application/json"], 1),
        ([b"application/json;q=0"], 0),
        ([b"application/json;q=2"], 0),
        ([b"application/json;q=x, application/problem+json;q=0.1"], 2),
        ([b"json"], 0),
        ([b'application/json;x="no end, text/plain'], 1),
        ([b'"application/json"'], 0),
        ([b"\xff/\xff, application/*"], 1),
    ],
)
def test_malformed_range_is_ignored_and_the_first_offer_is_the_default(
    accept: list[bytes] | None, expected: int
) -> None:
    assert preferred_type(OFFERS, accept) == OFFERS[expected]


def test_too_long_accept_is_ignored() -> None:
    """
    The value may be in one line or in several lines.
    """
    blanks = b" " * (MAX_ACCEPT_BYTES - len(b"application/json"))
    assert preferred_type(OFFERS, [b"application/json" + blanks]) == OFFERS[1]
    assert preferred_type(OFFERS, [b"application/json " + blanks]) == OFFERS[0]
    assert preferred_type(OFFERS, [b"application/json", blanks]) == OFFERS[0]
