"""
Base URLs, which say where a service is reached over TCP, TLS or a Unix socket.
"""

from __future__ import annotations

import os
from typing import Self
from urllib.parse import unquote, urlsplit

from attrs import frozen

from pexservice.core.text import without_password

BASE_URL_FORMS = (
    "http://HOST:PORT, https://HOST:PORT, http+unix://%2FPATH%2FOF%2FSOCKET or unix:PATH"
)

#: The URL of a service that has the default options.
DEFAULT_BASE_URL = "http://127.0.0.1:8081"

#: How many bytes Linux allows in the path of a Unix socket.
MAX_SOCKET_PATH = 107


@frozen
class BaseURL:
    """
    One base URL.

    @ivar text: the URL as the user wrote it, for messages.
    @ivar url: the URL that paths such as C{/next} are appended to.
    @ivar socket: the path of a Unix socket, which is used in place of host and port.
    """

    text: str
    url: str
    host: str = "localhost"
    port: int = 80
    socket: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_https(self) -> bool:
        return self.url.startswith("https:")

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Parse a base URL.

        @raise ValueError: C{text} is not a base URL.
        """
        shown = without_password(text)
        invalid = ValueError(f"{shown!r} is not a base URL; use {BASE_URL_FORMS}")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise invalid from error
        if parts.query or parts.fragment or not text.isascii() or not text.isprintable():
            raise invalid
        if parts.scheme in ("unix", "http+unix"):
            socket = (unquote(parts.netloc) + parts.path).rstrip("/")
            if not socket or "@" in parts.netloc:
                raise invalid
            if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
                raise ValueError(
                    f"the path of a Unix socket must have at most {MAX_SOCKET_PATH} bytes"
                )
            return cls(text, "http://localhost", socket=socket)
        if parts.scheme not in ("http", "https") or not host or port == 0:
            raise invalid
        if parts.username is not None or " " in text:
            raise invalid
        default_port = 443 if parts.scheme == "https" else 80
        return cls(text, text.rstrip("/"), host, port or default_port)
