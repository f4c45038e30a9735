"""
A TCP proxy that disturbs its connections.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto

from tests.support.tcp_server import serving_connections


class Disturbance(Enum):
    """
    The ways in which a proxy disturbs its connections.
    """

    #: Pass all bytes on.
    NONE = auto()
    #: Pass all bytes on after a delay.
    SLOW = auto()
    #: Receive bytes, and discard them.
    BLACK_HOLE = auto()
    #: Pass requests on, and discard the responses.
    NO_RESPONSES = auto()
    #: Close the sending half towards the server, and discard the responses.
    HALF_CLOSED = auto()
    #: Close all connections, and accept no other.
    CUT = auto()


#: The connection to the client, and the connection to the server.
Pair = tuple[socket.socket, socket.socket]

#: How long a slow proxy delays each chunk of bytes.
DELAY_SECONDS = 0.2


class Proxy:
    """
    A proxy for one port; see L{proxy_of}.

    @ivar port: the port on which it listens.
    """

    port: int

    def __init__(self, target_port: int, delay_seconds: float) -> None:
        """
        @param delay_seconds: how long a slow proxy delays each chunk of bytes.
        """
        self._target_port, self._delay_seconds = target_port, delay_seconds
        self._disturbance = Disturbance.NONE
        self._pairs: set[Pair] = set()
        self._lock = threading.Lock()

    @contextmanager
    def disturbed(self, disturbance: Disturbance) -> Iterator[None]:
        """
        Disturb the connections until the end of the block.
        """
        self._disturbance = disturbance
        if disturbance is Disturbance.CUT:
            self.shut_down_all()
        if disturbance is Disturbance.HALF_CLOSED:
            for _, server in self._open_pairs():
                with suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
        try:
            yield
        finally:
            self._disturbance = Disturbance.NONE
            # The bytes that these connections have lost are gone.
            if disturbance is not Disturbance.SLOW:
                self.shut_down_all()

    def _open_pairs(self) -> list[Pair]:
        with self._lock:
            return list(self._pairs)

    def shut_down_all(self) -> None:
        for pair in self._open_pairs():
            self._shut_down(pair)

    def _shut_down(self, pair: Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(self, client: socket.socket) -> None:
        """
        Connect C{client} to the target port until one of both closes the connection.
        """
        if self._disturbance is Disturbance.CUT:
            return
        with socket.create_connection(("127.0.0.1", self._target_port), 5) as server:
            pair = (client, server)
            for end in pair:
                end.settimeout(None)
            with self._lock:
                self._pairs.add(pair)
            responses = threading.Thread(
                target=self._pump, args=(pair,), kwargs={"responses": True}, daemon=True
            )
            responses.start()
            self._pump(pair, responses=False)
            responses.join()

    def _pump(self, pair: Pair, *, responses: bool) -> None:
        source, destination = reversed(pair) if responses else pair
        discarding = {Disturbance.BLACK_HOLE}
        if responses:
            discarding |= {Disturbance.NO_RESPONSES, Disturbance.HALF_CLOSED}
        with suppress(OSError):
            while chunk := source.recv(65536):
                disturbance = self._disturbance
                if disturbance is Disturbance.SLOW:
                    time.sleep(self._delay_seconds)
                if disturbance not in discarding:
                    destination.sendall(chunk)
        self._shut_down(pair)


@contextmanager
def proxy_of(url: str, slow_seconds: float | None = None) -> Iterator[Proxy]:
    """
    Run a proxy for the port in C{url} until the end of the block.

    @param slow_seconds: if it is given, the proxy delays each chunk of bytes for so long.
    """
    proxy = Proxy(int(url.rpartition(":")[2]), slow_seconds or DELAY_SECONDS)
    disturbance = Disturbance.SLOW if slow_seconds else Disturbance.NONE
    with serving_connections(proxy.serve) as proxy.port:
        try:
            with proxy.disturbed(disturbance):
                yield proxy
        finally:
            proxy.shut_down_all()
