"""
Responses before they are written, and the media types of their bodies.
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
TYPES = {
    TEXT: b"text/plain; charset=utf-8",
    JSON: b"application/json",
    HTML: b"text/html; charset=utf-8",
    PROBLEM: b"application/problem+json",
}

#: The ends of the ETags, by which the representations of one revision differ.
SUFFIXES = {TEXT: b"", JSON: b"-json"}


class StreamWriter(Protocol):
    """
    The connection of a streamed response.
    """

    def send_piece(self, data: bytes, /) -> None: ...

    def end_stream(self) -> None:
        """
        End the response and its connection.
        """

    def abort(self) -> None:
        """
        Close the connection at once: the client does not take what was sent.
        """


class Stream(Protocol):
    """
    The body of a response that is sent piece by piece.

    The connection calls L{begin} once, C{pause} and C{resume} as the client stops taking
    bytes and takes them again, and C{end} when the client is gone or sends no more.
    """

    def begin(self, writer: StreamWriter, /) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def end(self) -> None: ...


@frozen
class Response:
    """
    A response; without a L{stream} its length is known, so that it is never chunked.
    """

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""
    stream: Stream | None = None

    @property
    def phrase(self) -> bytes:
        # Twisted's own table ends before 431.
        return HTTPStatus(self.status).phrase.encode()
