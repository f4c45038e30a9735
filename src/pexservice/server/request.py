"""
A request: no body, one resource, nothing of the server in its answer.
"""

from __future__ import annotations

from io import BytesIO

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from zope.interface import implementer

from pexservice.server.interfaces import IChannel
from pexservice.server.parser import ABSOLUTE, LARGEST_BODY
from pexservice.web import problems
from pexservice.web.clients import Caller
from pexservice.web.guard import send
from pexservice.web.operations import ISender
from pexservice.web.parameters import CONNECTION, preferences, read

_log = Logger()


@implementer(ISender)
class PexRequest(server.Request):
    """
    A request without a body, answered by the site's one resource.
    """

    channel: IChannel  # type: ignore[assignment]

    _body_size = 0

    @property
    def caller(self) -> Caller:
        """
        The connection that it came on.
        """
        return self.channel.sender.caller

    def gotLength(self, length: int | None) -> None:
        """
        Keep no body, whatever its length.
        """
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """
        Drop some of the body.
        """
        self._body_size += len(data)
        if self._body_size > LARGEST_BODY:
            self.channel.refuse(problems.too_much_content(LARGEST_BODY))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        Answer the request, which is complete.
        """
        absolute = ABSOLUTE.match(path)
        if absolute is not None:
            path = path[absolute.end() :]
            if not path.startswith(b"/"):
                path = b"/" + path
        super().requestReceived(command, path, version)

    def process(self) -> None:
        """
        Do as the inherited one, without naming the server's version, without decoding
        the path, and straight to the one resource.
        """
        site = self.channel.site
        if site.closing:
            self.channel.persistent = False
            self.setHeader(CONNECTION, b"close")
        self.prepath, self.postpath = [], self.path[1:].split(b"/")
        try:
            self.render(site.resource)
        except Exception:  # noqa: BLE001 whatever it is, the caller is answered
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> None:
        """
        Answer that a bug got past the resource.
        """
        _log.failure("a request failed", failure=reason)
        if self.startedWriting:
            self.channel.loseConnection()
            return
        wanted = preferences(read(self.requestHeaders)).problem
        send(self, problems.internal_error().reply(wanted))

    def finish(self) -> None:
        """
        Take notice that the answer is complete.  One that says so is its connection's
        last.
        """
        if self.responseHeaders.getRawHeaders(CONNECTION) == [b"close"]:
            self.channel.persistent = False
        super().finish()

    def getRequestHostname(self) -> bytes:
        """
        Return a name for Klein: nothing here depends on the C{Host}, and what routes by
        it must not fail by a strange one.
        """
        return b"localhost"
