"""
Responses, and the media types of their bodies.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from attrs import frozen

Header = tuple[bytes, bytes]

TEXT = "text/plain"
JSON = "application/json"
HTML = "text/html"
PROBLEM = "application/problem+json"

#: The values of C{Content-Type}.
CONTENT_TYPES = {
    TEXT: b"text/plain; charset=utf-8",
    JSON: b"application/json",
    HTML: b"text/html; charset=utf-8",
    PROBLEM: b"application/problem+json",
}

#: An ETag is a revision and one of these suffixes: each representation has its own ETag.
ETAG_SUFFIXES = {TEXT: b"", JSON: b"-json"}


class StreamWriter(Protocol):
    """
    The connection that sends a streamed response.
    """

    def send_piece(self, data: bytes, /) -> None: ...

    def end_stream(self) -> None:
        """
        End the response and the connection.
        """

    def abort(self) -> None:
        """
        Close the connection at once, because the client is not taking bytes.
        """


class Stream(Protocol):
    """
    The body of a response that is sent piece by piece.

    The connection calls L{begin} once.  It calls C{pause} when the client stops taking
    bytes, and C{resume} when the client takes them again.  It calls C{end} when the client
    disconnects or half-closes the connection.
    """

    def begin(self, writer: StreamWriter, /) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def end(self) -> None: ...


@frozen
class Response:
    """
    @ivar stream: sends the body piece by piece, instead of C{body}.
    """

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""
    stream: Stream | None = None

    @property
    def phrase(self) -> bytes:
        # Twisted's table lacks some statuses, such as 431.
        return HTTPStatus(self.status).phrase.encode()
