"""
The listeners of a worker, which are opened and closed together.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Sequence
from ssl import SSLContext
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from pexservice.process.listening import ListenEndpoint, format_address, socket_file
from pexservice.server.listener import Listener
from pexservice.server.server import Server


@define(eq=False)
class Listeners:
    _log = Logger()

    _endpoints: Sequence[ListenEndpoint]
    _server: Server
    _loop: AbstractEventLoop
    _tls: SSLContext | None
    _open: list[Listener] = field(init=False, factory=list)

    @property
    def are_open(self) -> bool:
        return bool(self._open)

    def open(self) -> None:
        """
        Listen at all endpoints, unless this worker listens already.

        @raise CannotStart: this process cannot listen at an endpoint.
        """
        if self._open:
            return
        self._server.start()
        try:
            for endpoint in self._endpoints:
                self._listen(endpoint)
        except Exception:
            self.close()
            raise

    def _listen(self, endpoint: ListenEndpoint) -> None:
        # Twisted opens the port, and L{Listener} accepts the connections.  So Twisted never
        # calls this factory.
        port = endpoint.listen(Factory())
        self._open.append(Listener(port, self._loop, self._server, self._tls))
        self._log.info("listening on {address}", address=format_address(port.getHost()))
        path = socket_file(port)
        if path is not None and not path.is_socket():
            self._log.error(
                "the file of the Unix socket {path} is gone, so no client can connect"
                " there; restart the service to create it again",
                path=path,
            )

    def close(self) -> Deferred[Any]:
        closing, self._open = self._open, []
        return DeferredList([maybeDeferred(port.stopListening) for port in closing])
