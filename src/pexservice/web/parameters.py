"""
The headers and query parameters that the service reads.

No other module reads a header of a request; a test checks that.  So a response depends only
on the request line and L{HEADERS}.  This table also tells the plan cache which headers
identify a plan and which are arguments.
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
from pexservice.web.preconditions import UNCONDITIONAL, Conditions, parse_tags
from pexservice.web.responses import JSON, PROBLEM, TEXT


class Use(Flag):
    """
    The uses of a request's header.
    """

    #: The header decides what the request means.  Its values have few meanings.
    DECIDES = auto()
    #: The value is an argument, which may differ from request to request.
    ARGUMENT = auto()
    #: The access log shows the value.
    LOGGED = auto()
    #: The header tells where the request ends, or how its body is sent.
    FRAMES = auto()
    #: The parser remembers no line with the value: it is a secret, or is always different.
    NEVER_REMEMBERED = auto()


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

#: The headers by which browsers mark a prefetch: a request that their user did not ask for.
PREFETCH_HEADERS = (b"sec-purpose", b"purpose", b"x-moz")

#: Every header that the service reads, by its name in small letters.  C{Cookie} and
#: C{Proxy-Authorization} change nothing: they are listed as secrets.
HEADERS: Mapping[bytes, Use] = {
    ACCEPT: Use.DECIDES,
    CONNECTION: Use.DECIDES,
    **dict.fromkeys(PREFETCH_HEADERS, Use.DECIDES),
    ORIGIN: Use.DECIDES | Use.ARGUMENT,
    HOST: Use.ARGUMENT,
    IF_MATCH: Use.ARGUMENT,
    IF_NONE_MATCH: Use.ARGUMENT,
    SEC_FETCH_SITE: Use.ARGUMENT,
    LAST_EVENT_ID: Use.ARGUMENT,
    REQUEST_METHOD: Use.ARGUMENT,
    AUTHORIZATION: Use.ARGUMENT | Use.NEVER_REMEMBERED,
    FORWARDED_FOR: Use.ARGUMENT | Use.NEVER_REMEMBERED,
    IDEMPOTENCY_KEY: Use.ARGUMENT | Use.NEVER_REMEMBERED,
    REFERER: Use.LOGGED,
    USER_AGENT: Use.LOGGED,
    CONTENT_LENGTH: Use.FRAMES,
    TRANSFER_ENCODING: Use.FRAMES,
    EXPECT: Use.FRAMES,
    COOKIE: Use.NEVER_REMEMBERED,
    PROXY_AUTHORIZATION: Use.NEVER_REMEMBERED,
}

#: The values of a request's headers by the header's name in small letters: one value for
#: each line, without the blanks around it.
Arguments = Mapping[bytes, Sequence[bytes]]

_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_IDEMPOTENCY_KEY_BYTES)

#: More digits than any revision has.
_QUERY_NUMBER = re.compile(r"[0-9]{1,20}")


def read(headers: Headers) -> Arguments:
    """
    Return the arguments in the headers of one of Twisted's requests.
    """
    return {
        lower: values
        for name, values in headers.getAllRawHeaders()
        if (lower := name.lower()) in HEADERS
    }


def elements(values: Sequence[bytes]) -> list[bytes]:
    """
    Return the elements of a list header, from all its lines.
    """
    return [element.strip(b" \t") for value in values for element in value.split(b",")]


def is_prefetch(values: Sequence[bytes]) -> bool:
    """
    Return whether a browser marked a request as a prefetch.

    @param values: the values of one of the L{PREFETCH_HEADERS}, such as
        C{prefetch;prerender} or C{preview}.
    """
    return any(element.lower().startswith(b"pre") for element in elements(values))


#: A longer C{Accept} means "anything": a client can send 16 KiB of it with every request,
#: and every response depends on it.  Those of browsers have 140 bytes.
MAX_ACCEPT_BYTES = 512

# A parameter's quoted value, also one that does not end.  Possessive, and always a match
# at a quote, so that no byte is looked at twice.
_QUOTED = re.compile(rb'"%b*+"?' % rb'(?:[^"\\]|\\.?)', re.DOTALL)

_QUALITY = re.compile(rb"[0-9]+(?:\.[0-9]*)?")

#: The quality of each media range, by C{b"type/subtype"} in small letters; of a range
#: that is given twice, with different parameters, the higher one.
Ranges = Mapping[bytes, float]


@lru_cache(maxsize=256)
def parse_accept(value: bytes) -> Ranges:
    """
    Return the quality of each media range in the value of an C{Accept} header.

    An element that is malformed is skipped.  Parameters other than C{q} make no
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
    if len(value) > MAX_ACCEPT_BYTES:
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
    # A client that asks for plain JSON can read a problem in it.
    problem = best_of((TEXT, JSON, PROBLEM), [accept])
    return Preferences(
        best_of((TEXT, JSON), [accept]), TEXT if problem == TEXT else PROBLEM
    )


def preferences(arguments: Arguments) -> Preferences:
    """
    Return the representations that a request's C{Accept} asks for.
    """
    values = arguments.get(ACCEPT)
    if values is None:
        return NO_PREFERENCE
    value = b",".join(values)
    return NO_PREFERENCE if len(value) > MAX_ACCEPT_BYTES else _preferences(value)


class Persistence(NamedTuple):
    """
    The wishes of a request's C{Connection} for the time after the response.
    """

    closes: bool
    keeps: bool


def persistence(values: Sequence[bytes]) -> Persistence:
    """
    Return the wishes in the C{values} of C{Connection}.
    """
    tokens = [token.lower() for token in elements(values)]
    return Persistence(b"close" in tokens, b"keep-alive" in tokens)


def conditions(arguments: Arguments) -> Conditions:
    """
    Return a request's preconditions.

    @raise Problem: 400, one of them is malformed.
    """
    if_match, if_none_match = arguments.get(IF_MATCH), arguments.get(IF_NONE_MATCH)
    if if_match is None and if_none_match is None:
        return UNCONDITIONAL
    return Conditions(
        None if if_match is None else parse_tags("If-Match", if_match),
        None if if_none_match is None else parse_tags("If-None-Match", if_none_match),
    )


#: For each header that decides, the function that returns the meaning of its values.
#: L{Origin<ORIGIN>} is missing: its meaning depends on the options.
MEANINGS: Mapping[bytes, Callable[[Sequence[bytes]], Hashable]] = {
    ACCEPT: lambda values: preferences({ACCEPT: values}),
    CONNECTION: persistence,
    **dict.fromkeys(PREFETCH_HEADERS, is_prefetch),
}


def key_of(arguments: Arguments) -> bytes | None:
    """
    Return a request's C{Idempotency-Key}, if it has one.

    @raise Problem: 400, it is malformed.
    """
    values = arguments.get(IDEMPOTENCY_KEY)
    if values is None:
        return None
    if len(values) != 1 or not _IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise problems.malformed(
            "Idempotency-Key must be given once and have 1 to"
            f" {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters"
        )
    return values[0]


def query(uri: bytes) -> dict[str, list[str]]:
    """
    Return the parameters in the query of a request target.

    Parameters without a value are among them, although Twisted leaves these out.
    """
    return parse_qs(uri.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)


def number(uri: bytes, name: str, minimum: int, maximum: int | None) -> int | None:
    """
    Return the query parameter C{name}, if it is there.

    @raise Problem: 400, it is not a number from C{minimum} to C{maximum}.
    """
    values = query(uri).get(name)
    if values is None:
        return None
    if len(values) == 1 and _QUERY_NUMBER.fullmatch(values[0]):
        value = int(values[0])
        if minimum <= value and (maximum is None or value <= maximum):
            return value
    upper = "up" if maximum is None else f"to {maximum}"
    raise problems.malformed(
        f"the parameter {name} must be given once, a number from {minimum} {upper}"
    )
