"""
The headers and query parameters that the service reads.

The modules of the service read only headers that are in L{HEADERS}; a test checks this.  So
a response depends only on the request line and on the headers in this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Flag, auto
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qs

from twisted.web.http_headers import Headers

from pexservice.stores.remembered_keys import MAX_IDEMPOTENCY_KEY_BYTES
from pexservice.web import problems
from pexservice.web.preconditions import UNCONDITIONAL, Preconditions, parse_etags
from pexservice.web.responses import JSON, PROBLEM, TEXT


class HeaderRole(Flag):
    #: The header is part of the key of a plan; see L{pexservice.server.plans}.  Its values
    #: have few meanings, so there are few plans.
    DECIDES = auto()
    #: The service reads the value in each request.
    VALUE = auto()
    #: The access log shows the value.
    LOGGED = auto()
    #: The header tells where the request ends, or how its body is sent.
    FRAMES = auto()
    #: The parser does not cache lines with this header, because their values are secrets or
    #: rarely come twice.
    NEVER_CACHED = auto()


ACCEPT = b"accept"
AUTHORIZATION = b"authorization"
CONNECTION = b"connection"
CONTENT_LENGTH = b"content-length"
COOKIE = b"cookie"
EXPECT = b"expect"
FORWARDED_FOR = b"x-forwarded-for"
HOST = b"host"
IDEMPOTENCY_KEY = b"idempotency-key"
IF_MATCH = b"if-match"
IF_NONE_MATCH = b"if-none-match"
LAST_EVENT_ID = b"last-event-id"
ORIGIN = b"origin"
PROXY_AUTHORIZATION = b"proxy-authorization"
REFERER = b"referer"
REQUEST_METHOD = b"access-control-request-method"
SEC_FETCH_SITE = b"sec-fetch-site"
TRANSFER_ENCODING = b"transfer-encoding"
USER_AGENT = b"user-agent"

#: With these headers, browsers mark a prefetch, which is a request that they send before
#: their user asks for it.
PREFETCH_HEADERS = (b"sec-purpose", b"purpose", b"x-moz")

#: Every header that the service reads, by its name in small letters.  The service ignores
#: C{Cookie} and C{Proxy-Authorization}.  They are in this table so that the parser does not
#: cache their values, which are secrets.
HEADERS: Mapping[bytes, HeaderRole] = {
    ACCEPT: HeaderRole.DECIDES,
    CONNECTION: HeaderRole.DECIDES,
    **dict.fromkeys(PREFETCH_HEADERS, HeaderRole.DECIDES),
    ORIGIN: HeaderRole.DECIDES | HeaderRole.VALUE,
    HOST: HeaderRole.VALUE,
    IF_MATCH: HeaderRole.VALUE,
    IF_NONE_MATCH: HeaderRole.VALUE,
    SEC_FETCH_SITE: HeaderRole.VALUE,
    LAST_EVENT_ID: HeaderRole.VALUE,
    REQUEST_METHOD: HeaderRole.VALUE,
    AUTHORIZATION: HeaderRole.VALUE | HeaderRole.NEVER_CACHED,
    FORWARDED_FOR: HeaderRole.VALUE | HeaderRole.NEVER_CACHED,
    IDEMPOTENCY_KEY: HeaderRole.VALUE | HeaderRole.NEVER_CACHED,
    REFERER: HeaderRole.LOGGED,
    USER_AGENT: HeaderRole.LOGGED,
    CONTENT_LENGTH: HeaderRole.FRAMES,
    TRANSFER_ENCODING: HeaderRole.FRAMES,
    EXPECT: HeaderRole.FRAMES,
    COOKIE: HeaderRole.NEVER_CACHED,
    PROXY_AUTHORIZATION: HeaderRole.NEVER_CACHED,
}

#: The values of a request's headers, by the name of the header in small letters.  Each line
#: of the request gives one value, without the blanks around it.
RequestHeaders = Mapping[bytes, Sequence[bytes]]

_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_IDEMPOTENCY_KEY_BYTES)

#: The pattern allows more digits than any revision has.
_QUERY_NUMBER = re.compile(r"[0-9]{1,20}")
_MAX_QUERY_NUMBER = 10**20 - 1


def headers_of(all_headers: Headers) -> RequestHeaders:
    """
    Return those headers of a request that the service reads.
    """
    return {
        lower: values
        for name, values in all_headers.getAllRawHeaders()
        if (lower := name.lower()) in HEADERS
    }


def list_elements(values: Sequence[bytes]) -> list[bytes]:
    """
    Return the elements of a list header, from all its lines.
    """
    return [element.strip(b" \t") for value in values for element in value.split(b",")]


def marks_prefetch(values: Sequence[bytes]) -> bool:
    """
    Return whether C{values} mark a request as a prefetch.

    @param values: of one of the L{PREFETCH_HEADERS}, such as C{prefetch} or C{preview}.
    """
    return any(element.lower().startswith(b"pre") for element in list_elements(values))


def is_prefetch(headers: RequestHeaders) -> bool:
    return any(marks_prefetch(headers.get(name, ())) for name in PREFETCH_HEADERS)


#: A longer C{Accept} is ignored, because to parse 16 KiB for every request would cost too
#: much.  Browsers send 140 bytes.
MAX_ACCEPT_BYTES = 512

# The quoted value of a parameter.  The second quote may be missing.  The quantifier *+
# never gives bytes back, so the search takes linear time.
_QUOTED = re.compile(rb'"%b*+"?' % rb'(?:[^"\\]|\\.?)', re.DOTALL)

_QUALITY = re.compile(rb"[0-9]+(?:\.[0-9]*)?")

#: The quality of each media range, by C{b"type/subtype"} in small letters.  If a range is
#: listed several times, with different parameters, the highest quality counts.
Ranges = Mapping[bytes, float]


@lru_cache(maxsize=256)
def parse_accept(value: bytes) -> Ranges:
    """
    Return the quality of each media range in the value of an C{Accept} header.

    A malformed element is skipped.  Parameters other than C{q} are ignored.

    @param value: the values of all C{Accept} lines, joined by commas.
    """
    ranges: dict[bytes, float] = {}
    for element in _QUOTED.sub(b"", value).split(b","):
        media_range, *parameters = element.split(b";")
        media_range = media_range.strip(b" \t").lower()
        quality = _quality(parameters)
        if quality is not None and quality > ranges.get(media_range, -1.0):
            ranges[media_range] = quality
    return ranges


def _quality(parameters: Sequence[bytes]) -> float | None:
    """
    Return the value of C{q} among C{parameters}.

    @return: the value; 1 if C{q} is missing; C{None} if C{q} is not a number from 0 to 1.
    """
    for parameter in parameters:
        name, _, value = parameter.strip(b" \t").partition(b"=")
        if name in (b"q", b"Q"):
            quality = float(value) if _QUALITY.fullmatch(value) else 2.0
            return quality if quality <= 1 else None
    return 1.0


def preferred_type(offers: Sequence[str], accept: Sequence[bytes] | None) -> str:
    """
    Return the media type of C{offers} that C{accept} prefers.

    The most specific range that matches an offer decides the quality of this offer (RFC
    9110, section 12.5.1).  If several offers have the highest quality, the offer with the
    most specific range is returned.  If several offers remain, or if no offer is
    acceptable, the first offer is returned.

    @param accept: the values of the request's C{Accept}; C{None} if there are none.
    """
    if not accept:
        return offers[0]
    value = accept[0] if len(accept) == 1 else b",".join(accept)
    if len(value) > MAX_ACCEPT_BYTES:
        return offers[0]
    ranges = parse_accept(value)
    best, best_rank = offers[0], (0.0, -1)
    for offer in offers:
        media_type = offer.encode()
        names = (media_type, media_type.partition(b"/")[0] + b"/*", b"*/*")
        for specificity, name in zip((2, 1, 0), names, strict=True):
            quality = ranges.get(name)
            if quality is not None:
                if quality > 0 and (quality, specificity) > best_rank:
                    best, best_rank = offer, (quality, specificity)
                break
    return best


class Preferences(NamedTuple):
    """
    The representations that a client prefers.

    @ivar value: the representation of a state: L{TEXT} or L{JSON}.
    @ivar problem: the representation of a problem: L{TEXT} or L{PROBLEM}.
    """

    value: str
    problem: str


NO_PREFERENCE = Preferences(TEXT, TEXT)


@lru_cache(maxsize=256)
def _preferences(accept: bytes) -> Preferences:
    # A client that accepts plain JSON can read a problem in JSON.
    problem = preferred_type((TEXT, JSON, PROBLEM), [accept])
    return Preferences(
        preferred_type((TEXT, JSON), [accept]), TEXT if problem == TEXT else PROBLEM
    )


def preferences_of(headers: RequestHeaders) -> Preferences:
    values = headers.get(ACCEPT)
    if values is None:
        return NO_PREFERENCE
    value = b",".join(values)
    return NO_PREFERENCE if len(value) > MAX_ACCEPT_BYTES else _preferences(value)


class Persistence(NamedTuple):
    """
    What C{Connection} asks for: to close the connection, to keep it, or neither.
    """

    closes: bool
    keeps: bool


def persistence(values: Sequence[bytes]) -> Persistence:
    tokens = [token.lower() for token in list_elements(values)]
    return Persistence(b"close" in tokens, b"keep-alive" in tokens)


def preconditions_of(headers: RequestHeaders) -> Preconditions:
    """
    Return a request's preconditions.

    @raise Problem: 400 if a precondition is malformed.
    """
    if_match, if_none_match = headers.get(IF_MATCH), headers.get(IF_NONE_MATCH)
    if if_match is None and if_none_match is None:
        return UNCONDITIONAL
    return Preconditions(
        None if if_match is None else parse_etags("If-Match", if_match),
        None if if_none_match is None else parse_etags("If-None-Match", if_none_match),
    )


#: The headers that decide which plan a request has, each with the function that returns the
#: meaning of its values.  The meaning of L{ORIGIN} depends on the options, so
#: L{pexservice.web.operations.RequestChecker.deciding_headers} adds it.
DECIDING_HEADERS: Mapping[bytes, Callable[[Sequence[bytes]], Hashable]] = {
    ACCEPT: lambda values: preferences_of({ACCEPT: values}),
    CONNECTION: persistence,
    **dict.fromkeys(PREFETCH_HEADERS, marks_prefetch),
}


def idempotency_key(headers: RequestHeaders) -> bytes | None:
    """
    Return a request's C{Idempotency-Key}, if it has one.

    @raise Problem: 400 if the key is malformed.
    """
    values = headers.get(IDEMPOTENCY_KEY)
    if values is None:
        return None
    if len(values) != 1 or not _IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise problems.malformed(
            "Idempotency-Key must be given once and have 1 to"
            f" {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters"
        )
    return values[0]


def query_parameters(target: bytes) -> dict[str, list[str]]:
    """
    Return the parameters in the query of a request target, also those without a value.
    """
    return parse_qs(target.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)


def query_number(target: bytes, name: str, maximum: int = _MAX_QUERY_NUMBER) -> int | None:
    """
    Return the query parameter C{name}, or C{None} if it is missing.

    @raise Problem: 400 if the parameter is not a number from 1 to C{maximum}.
    """
    values = query_parameters(target).get(name)
    if values is None:
        return None
    if len(values) == 1 and _QUERY_NUMBER.fullmatch(values[0]):
        value = int(values[0])
        if 1 <= value <= maximum:
            return value
    raise problems.malformed(
        f"the parameter {name} must be given once, a number from 1 to {maximum}"
    )
