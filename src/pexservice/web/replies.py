"""
An answer before it is sent.
"""

from __future__ import annotations

from http import HTTPStatus

from attrs import frozen
from twisted.web.http import NO_BODY_CODES
from twisted.web.iweb import IRequest

Header = tuple[bytes, bytes]

TEXT = "text/plain"
JSON = "application/json"
HTML = "text/html"
PROBLEM = "application/problem+json"

#: The end that tells a representation's ETag from the others' of the same revision.
SUFFIXES = {TEXT: b"", JSON: b"-json"}


@frozen
class Reply:
    """
    A whole answer, whose length is known before it is sent, so that it is never chunked.
    """

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""

    @property
    def phrase(self) -> bytes:
        """
        Return the status in words.  Twisted's own table ends before 431.
        """
        return HTTPStatus(self.status).phrase.encode()

    def apply(self, request: IRequest) -> bytes:
        """
        Set C{request}'s status and headers.

        @return: the body, which is to be sent.
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
