"""
A request: no body, one resource, nothing of the server in its answer.
"""

from __future__ import annotations

import re
from io import BytesIO

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import datetimeToString

from pexservice.server.interfaces import IChannel
from pexservice.web import problems

_log = Logger()

#: The largest body that is read, to be dropped.  Bytes.
LARGEST_BODY = 65536

#: An absolute-form request target; RFC 9112 3.2.2 has servers take them.
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)


class PexRequest(server.Request):
    """
    A request without a body, answered by the site's one resource.

    @ivar body_size: the bytes of the body that have come; they are dropped.
    """

    channel: IChannel  # type: ignore[assignment]
    body_size = 0
    # In the access log, of a request whose first line was not understood.
    method = uri = clientproto = b"-"

    def gotLength(self, length: int | None) -> None:
        """
        The body's length is known, or L{None} for a chunked one.  It is not kept.
        """
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """
        Some of the body.
        """
        self.body_size += len(data)
        if self.body_size > LARGEST_BODY:
            self.channel.refuse(problems.too_much_content(LARGEST_BODY))

    def forwarded(self) -> tuple[bytes, ...]:
        """
        The values of C{X-Forwarded-For}.
        """
        return tuple(self.requestHeaders.getRawHeaders(b"x-forwarded-for", ()))

    def getClientAddress(self) -> IAddress:
        """
        See L{IRequest.getClientAddress}: who sent the request, as far as that is known.
        """
        channel = self.channel
        return channel.site.address_of_client(channel.getPeer(), self.forwarded())

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        All of it is there.
        """
        absolute = _ABSOLUTE.match(path)
        if absolute is not None:
            path = path[absolute.end() :]
            if not path.startswith(b"/"):
                path = b"/" + path
        super().requestReceived(command, path, version)

    def process(self) -> None:
        """
        As the inherited one, without naming the server's version, without decoding
        the path, and straight to the one resource.
        """
        site = self.channel.site
        self.setHeader(b"Date", datetimeToString())
        if site.closing:
            self.channel.persistent = False
            self.setHeader(b"Connection", b"close")
        self.prepath, self.postpath = [], self.path[1:].split(b"/")
        try:
            self.render(site.resource)
        except Exception:  # noqa: BLE001 whatever it is, the caller is answered
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> None:
        """
        A bug got past the resource.
        """
        _log.failure("a request failed", failure=reason)
        if self.startedWriting:
            self.channel.loseConnection()
            return
        accept = self.requestHeaders.getRawHeaders(b"accept")
        body = problems.our_fault().reply(accept).apply(self)
        self.write(body)
        self.finish()

    def finish(self) -> None:
        """
        The answer is complete.  One that says so is its connection's last.
        """
        if self.responseHeaders.getRawHeaders(b"connection") == [b"close"]:
            self.channel.persistent = False
        super().finish()

    def getRequestHostname(self) -> bytes:
        """
        Nothing here depends on the C{Host}, and what routes by it must not fail by
        a strange one.
        """
        return b"localhost"
