"""
An answer before it is sent.
"""

from __future__ import annotations

from http import HTTPStatus

from attrs import frozen

Header = tuple[bytes, bytes]

TEXT = "text/plain"
JSON = "application/json"
HTML = "text/html"
PROBLEM = "application/problem+json"

#: The value of C{Content-Type} for each.
TYPES = {
    TEXT: b"text/plain; charset=utf-8",
    JSON: b"application/json",
    HTML: b"text/html; charset=utf-8",
    PROBLEM: b"application/problem+json",
}

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
