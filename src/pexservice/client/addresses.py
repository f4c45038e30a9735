"""
The base URLs that say where a service is.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit, urlunsplit

from attrs import frozen

from pexservice.client.errors import BadAddress

URLS = "http://HOST:PORT, https://HOST:PORT, http+unix://%2FPATH%2FOF%2FSOCKET or unix:PATH"


@frozen
class Address:
    """
    One base URL.

    @ivar text: the URL as it was given, for messages.
    @ivar url: the URL that paths are appended to.
    @ivar host: the name or the IP address.
    @ivar port: the number.
    @ivar socket: the path of a Unix socket instead, or C{None}.
    """

    text: str
    url: str
    host: str = "localhost"
    port: int = 80
    socket: str | None = None

    @property
    def secure(self) -> bool:
        """
        Tell whether the service is reached over TLS.
        """
        return self.url.startswith("https:")

    @property
    def netloc(self) -> str:
        """
        Return the host and the port, as a URL and the header C{Host} have them.
        """
        return urlsplit(self.url).netloc

    @property
    def plain_url(self) -> str:
        """
        Return the URL with a host that every library understands.

        The URL is for requests whose connection is made by other means.

        hyperlink, which treq parses its URLs with, takes neither an IPv6 address nor a
        name with an underscore.
        """
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=f"localhost:{self.port}"))

    def __str__(self) -> str:
        return self.text


def parse_address(text: str) -> Address:
    """
    Return the address that a base URL stands for.

    @raise BadAddress: C{text} is no base URL.
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
        return Address(text, "http://localhost", socket=path.rstrip("/"))
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise wrong
    if parts.username is not None or " " in text:
        raise wrong
    default = 443 if parts.scheme == "https" else 80
    return Address(text, text.rstrip("/"), host, port or default)
