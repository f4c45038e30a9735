"""
What a request asks for, besides its path and method.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from twisted.web.iweb import IRequest

from pexservice.stores.interface import LONGEST_KEY
from pexservice.web import problems
from pexservice.web.preconditions import Tags, parse_tags

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % LONGEST_KEY)

#: More digits than any revision has.
_NUMBER = re.compile(r"[0-9]{1,20}")


def accept(request: IRequest) -> list[bytes] | None:
    """
    @return: the values of C{Accept}.
    """
    values: list[bytes] | None = request.requestHeaders.getRawHeaders(b"accept")
    return values


def conditions(request: IRequest) -> tuple[Tags | None, Tags | None]:
    """
    @return: its C{If-Match} and its C{If-None-Match}.
    @raise Problem: 400, one of them is malformed.
    """
    raw = request.requestHeaders.getRawHeaders
    return (
        parse_tags("If-Match", raw(b"if-match")),
        parse_tags("If-None-Match", raw(b"if-none-match")),
    )


def key_of(request: IRequest) -> bytes | None:
    """
    @return: its C{Idempotency-Key}, if it has one.
    @raise Problem: 400, it is malformed.
    """
    values = request.requestHeaders.getRawHeaders(b"idempotency-key")
    if values is None:
        return None
    (key, *more) = values
    if more or not _KEY.fullmatch(key):
        raise problems.malformed(
            f"Idempotency-Key must be given once and have 1 to {LONGEST_KEY} visible"
            " ASCII characters"
        )
    result: bytes = key
    return result


def query(request: IRequest) -> dict[str, list[str]]:
    """
    The query's parameters, also those without a value, which Twisted leaves out.
    """
    text = request.uri.partition(b"?")[2].decode("latin-1")
    return parse_qs(text, keep_blank_values=True)


def number(request: IRequest, name: str, least: int, most: int | None) -> int | None:
    """
    The query parameter C{name}, if it is there.

    @raise Problem: 400, it is no number from C{least} to C{most}.
    """
    values = query(request).get(name)
    if values is None:
        return None
    if len(values) == 1 and _NUMBER.fullmatch(values[0]):
        found = int(values[0])
        if least <= found and (most is None or found <= most):
            return found
    upper = "up" if most is None else f"to {most}"
    raise problems.malformed(
        f"the parameter {name} must be given once, a number from {least} {upper}"
    )
