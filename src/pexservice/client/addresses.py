"""
Base URLs: where a service is.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from attrs import frozen

from pexservice.client.errors import BadAddress

URLS = "http://HOST:PORT, https://HOST:PORT, http+unix://%2FPATH%2FOF%2FSOCKET or unix:PATH"


@frozen
class Address:
    """
    One base URL.

    @ivar text: as it was given, for messages.
    @ivar url: what paths are appended to.
    @ivar socket: the path of a Unix socket, or C{None}.
    """

    text: str
    url: str
    socket: str | None = None

    @property
    def secure(self) -> bool:
        """
        Whether it is reached over TLS.
        """
        return self.url.startswith("https:")

    def __str__(self) -> str:
        return self.text


def parse_address(text: str) -> Address:
    """
    Read a base URL.

    @raise BadAddress: it is none.
    """
    wrong = BadAddress(f"{text!r} is no base URL; it must be {URLS}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong from error
    if parts.query or parts.fragment or not text.isascii() or not text.isprintable():
        raise wrong
    if parts.scheme in ("unix", "http+unix"):
        path = unquote(parts.netloc) + parts.path if parts.netloc else parts.path
        if not path.strip("/"):
            raise wrong
        return Address(text, "http://localhost", path.rstrip("/"))
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise wrong
    if parts.username is not None or " " in text:
        raise wrong
    return Address(text, text.rstrip("/"))
