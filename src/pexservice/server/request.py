"""
The request: its body is dropped, and the one resource answers it.

Nothing in the answer names the server.
"""

from __future__ import annotations

from io import BytesIO

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from zope.interface import implementer

from pexservice.server.parser import ABSOLUTE, LARGEST_BODY, Parser
from pexservice.web import problems
from pexservice.web.clients import Caller
from pexservice.web.guard import send
from pexservice.web.operations import ISender, Operation
from pexservice.web.parameters import CONNECTION, preferences, read

_log = Logger()


@implementer(ISender)
class PexRequest(server.Request):
    """
    A request without a body, answered by the site's one resource.

    @ivar operation: what it was found to mean; set by the resource.
    """

    channel: Parser

    operation: Operation | None = None

    _body_size = 0

    @property
    def caller(self) -> Caller:
        """
        Return the connection that the request came on, as far as answers depend on it.
        """
        return self.channel.connection.caller

    def gotLength(self, length: int | None) -> None:
        """
        Keep no body, whatever its length.
        """
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """
        Drop a part of the body, and refuse the request if there is too much of it.
        """
        self._body_size += len(data)
        if self._body_size > LARGEST_BODY:
            self.channel.refuse(problems.too_much_content(LARGEST_BODY))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        Answer the request, which is complete; an absolute-form target is cut to its path.
        """
        absolute = ABSOLUTE.match(path)
        if absolute is not None:
            path = path[absolute.end() :]
            if not path.startswith(b"/"):
                path = b"/" + path
        super().requestReceived(command, path, version)

    def process(self) -> None:
        """
        Have the site's one resource answer the request.

        Unlike the inherited method, this one does not name the server's version, does not
        decode the path, and goes straight to the one resource.
        """
        self.prepath, self.postpath = [], self.path[1:].split(b"/")
        try:
            self.render(self.channel.site.resource)
        except Exception:  # noqa: BLE001 whatever it is, the caller is answered
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> None:
        """
        Log a bug that got past the resource, and answer that there was one.
        """
        _log.failure("a request failed", failure=reason)
        if self.startedWriting:
            self.channel.loseConnection()
            return
        wanted = preferences(read(self.requestHeaders)).problem
        send(self, problems.internal_error().reply(wanted))

    def finish(self) -> None:
        """
        Finish the answer; if it says C{Connection: close}, it is its connection's last.
        """
        if self.responseHeaders.getRawHeaders(CONNECTION) == [b"close"]:
            self.channel.persistent = False
        super().finish()

    def getRequestHostname(self) -> bytes:
        """
        Return a fixed name for Klein: nothing here depends on the C{Host}.

        Routing by the C{Host} must not fail because of a strange one.
        """
        return b"localhost"
