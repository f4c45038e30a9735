"""
The protocol factory: one resource, for every connection of one worker.
"""

from __future__ import annotations

import time

from twisted.web.http import Request, datetimeToLogString
from twisted.web.resource import Resource
from twisted.web.server import Site

from pexservice.files import OWN_LOG
from pexservice.server.channel import PexChannel
from pexservice.server.connections import Connections
from pexservice.server.request import PexRequest

#: How long a connection may say nothing before or within a request.  Seconds.
IDLE_TIMEOUT = 60


class PexSite(Site):
    """
    @ivar connections: those that are open.
    """

    # Twisted's own lines about a factory that starts say nothing of ours.
    noisy = False

    # Instead of the one that may also become an HTTP/2 channel.
    protocol = PexChannel  # type: ignore[assignment]

    def __init__(
        self,
        resource: Resource,
        connections: Connections,
        *,
        access_log: str | None = None,
        reactor: object = None,
    ) -> None:
        """
        @param access_log: the path of the access log, L{OWN_LOG} for the daemon's
            log, or none.
        """
        super().__init__(
            resource,
            requestFactory=PexRequest,
            logPath=None if access_log in (None, OWN_LOG) else access_log,
            timeout=IDLE_TIMEOUT,
            reactor=reactor,
        )
        self.connections = connections
        self._logs = access_log is not None

    def _updateLogDateTime(self) -> None:
        """
        The inherited one takes the reactor's seconds for the time of day.
        """
        self._logDateTime = datetimeToLogString(time.time())
        self._logDateTimeCall = self.reactor.callLater(1, self._updateLogDateTime)

    def log(self, request: Request) -> None:
        """
        A line in the access log, if there is one: it costs as much as an answer.
        """
        if self._logs:
            super().log(request)
