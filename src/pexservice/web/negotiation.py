"""
The parsing of C{Accept}, in time linear in its length.

A client can send 16 KiB of it with every request, and every answer depends on it, so the
work is bounded twice: a value longer than any real one means "anything", and no expression
here can match one text in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

#: The longest C{Accept} that is looked at.  Those of browsers have 140 bytes.
LONGEST_ACCEPT = 512

# A parameter's quoted value, also one that does not end.  Possessive, and always a match
# at a quote, so that no byte is looked at twice.
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.?)*+"?', re.DOTALL)

_QUALITY = re.compile(rb"[0-9]+(?:\.[0-9]*)?")

#: The quality of each media range, by C{b"type/subtype"} in small letters; of a range
#: that is given twice, with different parameters, the higher one.
Ranges = Mapping[bytes, float]


@lru_cache(maxsize=256)
def parse_accept(value: bytes) -> Ranges:
    """
    Return the quality of each media range in the value of an C{Accept} header.

    An element that is malformed is passed over.  Parameters other than C{q} make no
    difference to what is offered here.

    @param value: the values of all its lines, joined by commas.
    """
    ranges: dict[bytes, float] = {}
    for element in _QUOTED.sub(b"", value).split(b","):
        kind, *parameters = element.split(b";")
        kind = kind.strip(b" \t").lower()
        quality = _quality(parameters)
        if quality is not None and quality > ranges.get(kind, -1.0):
            ranges[kind] = quality
    return ranges


def _quality(parameters: Sequence[bytes]) -> float | None:
    """
    Return the value of C{q} among C{parameters}.

    The value is 1 when C{q} is missing, and C{None} when it is no number from 0 to 1.
    """
    for parameter in parameters:
        name, _, value = parameter.strip(b" \t").partition(b"=")
        if name in (b"q", b"Q"):
            quality = float(value) if _QUALITY.fullmatch(value) else 2.0
            return quality if quality <= 1 else None
    return 1.0


def best_of(offers: Sequence[str], accept: Sequence[bytes] | None) -> str:
    """
    Return the media type of C{offers} that C{accept} prefers.

    Of equals, and when none is acceptable, the first is returned.

    As RFC 9110 12.5.1 says, the most specific range that matches an offer gives its
    quality.  Of offers with the same quality, the one whose range is more specific is
    preferred.

    @param accept: a request's C{Accept} values, if it had any.
    """
    if not accept:
        return offers[0]
    value = accept[0] if len(accept) == 1 else b",".join(accept)
    if len(value) > LONGEST_ACCEPT:
        return offers[0]
    ranges = parse_accept(value)
    best, best_rank = offers[0], (0.0, -1)
    for offer in offers:
        kind = offer.encode()
        names = (kind, kind.partition(b"/")[0] + b"/*", b"*/*")
        for specificity, name in zip((2, 1, 0), names, strict=True):
            quality = ranges.get(name)
            if quality is not None:
                if quality > 0 and (quality, specificity) > best_rank:
                    best, best_rank = offer, (quality, specificity)
                break
    return best
