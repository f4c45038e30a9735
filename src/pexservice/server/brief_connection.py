"""
The first turn of a connection, on its socket alone.

A client such as C{ab} opens a connection for each request.  A transport of the event loop
would cost as much as the request: it is made, watched, read once, written once, and closed
in the turn after.  So the first input is read from the socket itself.  If it is a request
whose plan is known and that is the last of its connection, the response is sent through
the socket too.  Every other connection is handed over to a transport of the event loop,
together with the input that was read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from twisted.logger import Logger

from pexservice.server.connection import Connection
from pexservice.server.plans import Plans

_log = Logger()

#: Longer input is left to the event loop's transport.
MAX_INPUT_BYTES = 2048


class BriefConnection:
    """
    The transport of a connection until it ends or is handed over.
    """

    def __init__(
        self,
        accepted: socket.socket,
        loop: asyncio.AbstractEventLoop,
        plans: Plans,
        connection: Connection,
        pass_on: Callable[[socket.socket, Connection], object],
    ) -> None:
        """
        @param pass_on: has the event loop make a transport, in a later turn.
        """
        self._socket = accepted
        self._loop = loop
        self._plans = plans
        self._connection = connection
        self._pass_on = pass_on
        self._watches = self._passed_on = self._closing = self._aborted = False
        self._performs = False
        self._received = self._unsent = b""
        connection.connection_made(self)  # type: ignore[arg-type]
        # A client mostly sends as soon as it is connected, so its request is here by the
        # next turn.
        loop.call_soon(self._read)

    def _read(self) -> None:
        self._stop_watching()
        if self._closing:
            return
        try:
            self._received = self._socket.recv(MAX_INPUT_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._watches = True
            self._loop.add_reader(self._socket.fileno(), self._read)
            return
        except OSError:
            # The client has reset the connection.
            self.abort()
            return
        try:
            self._handle()
        except Exception:  # noqa: BLE001 it is logged, and the connection ends
            _log.failure("a connection failed")
            self.abort()

    def _handle(self) -> None:
        data, connection = self._received, self._connection
        if not data:
            self.abort()
            return
        request = self._plans.exact.young.get(data) or self._plans.fill(data, connection)
        if request is None or not request.plan.framing.last:
            self._hand_over_later()
            return
        self._received = b""
        connection.perform(request)
        self._performs = True

    def _hand_over_later(self) -> None:
        self._passed_on = True
        self._pass_on(self._socket, self._connection)

    def hand_over(self, transport: asyncio.Transport) -> None:
        """
        Do with C{transport} what was asked for while it was not there.
        """
        if self._aborted:
            transport.abort()
            return
        if self._unsent:
            transport.write(self._unsent)
        if self._closing:
            transport.close()
        elif self._received:
            self._connection.data_received(self._received)

    def _stop_watching(self) -> None:
        if self._watches:
            self._watches = False
            self._loop.remove_reader(self._socket.fileno())

    # What a connection calls.

    def write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The client is gone; the connection is closed as after any last response.
            return
        if sent < len(data):
            # The event loop can wait until the client takes the rest.
            self._unsent = data[sent:]
            self._hand_over_later()

    def close(self) -> None:
        closing, self._closing = self._closing, True
        if closing or self._passed_on:
            return
        self._stop_watching()
        if self._performs:
            with suppress(OSError):
                # The client may have sent more meanwhile.  Closing a socket with unread
                # input resets the connection, and a reset may overtake the response.
                self._socket.recv(MAX_INPUT_BYTES, socket.MSG_DONTWAIT)
        self._socket.close()
        self._connection.connection_lost(None)

    def abort(self) -> None:
        self._aborted = True
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """
        Do nothing: only one request is read.
        """

    def resume_reading(self) -> None:
        """
        Do nothing.
        """

    def get_extra_info(self, name: str) -> object:
        return self._socket if name == "socket" else None
