"""
An answer before it is sent, and what every answer has to be decided by.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from attrs import frozen
from twisted.web.http import NO_BODY_CODES
from twisted.web.iweb import IRequest
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

Header = tuple[bytes, bytes]

TEXT = "text/plain"
JSON = "application/json"
HTML = "text/html"
PROBLEM = "application/problem+json"


@frozen
class Reply:
    """
    A whole answer.  Its length is known before it is sent, so it is never chunked.
    """

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""

    @property
    def phrase(self) -> bytes:
        """
        The status in words.  Twisted's own table ends before 431.
        """
        return HTTPStatus(self.status).phrase.encode()

    def apply(self, request: IRequest) -> bytes:
        """
        Set C{request}'s status and headers.

        @return: the body, for who sends it.
        """
        request.setResponseCode(self.status, self.phrase)
        for name, value in self.headers:
            request.responseHeaders.addRawHeader(name, value)
        if self.status not in NO_BODY_CODES:
            # Also in the answer to a HEAD, which says how long the body would be.
            request.responseHeaders.setRawHeaders(
                b"Content-Length", [b"%d" % len(self.body)]
            )
        return self.body


def best_of(offers: Sequence[str], accept: Sequence[bytes] | None) -> str:
    """
    The media type of C{offers} that C{accept} prefers; of equals, and when none is
    acceptable, the first.

    @param accept: a request's C{Accept} values, if it had any.
    """
    if not accept:
        return offers[0]
    parsed = parse_accept_header(b",".join(accept).decode("latin-1"), MIMEAccept)
    # A type's parameters, as a charset, make no difference to what is offered.
    plain = MIMEAccept(
        (kind.partition(";")[0].strip(), quality) for kind, quality in parsed
    )
    return plain.best_match(offers, default=offers[0])


def accepts_json(accept: Sequence[bytes] | None) -> bool:
    """
    Does who sent C{accept} read JSON rather than text?
    """
    return best_of((TEXT, JSON, PROBLEM), accept) != TEXT
