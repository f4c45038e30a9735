"""
A TCP proxy that disturbs its connections.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum, auto


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


#: How long a slow proxy delays each chunk of bytes.
DELAY_SECONDS = 0.2


class Proxy:
    """
    A proxy for one port.

    @ivar port: the port on which it listens.
    """

    def __init__(self, target_port: int, delay_seconds: float = DELAY_SECONDS) -> None:
        """
        @param delay_seconds: how long a slow proxy delays each chunk of bytes.
        """
        self._target_port, self._delay_seconds = target_port, delay_seconds
        self._disturbance = Disturbance.NONE
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def disturbed(self, disturbance: Disturbance) -> Iterator[None]:
        """
        Disturb the connections until the end of the block.
        """
        self._disturbance = disturbance
        if disturbance is Disturbance.CUT:
            self._shut_down_all()
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
                self._shut_down_all()

    def _open_pairs(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            return list(self._pairs)

    def _shut_down_all(self) -> None:
        for pair in self._open_pairs():
            self._shut_down(pair)

    def _shut_down(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._disturbance is Disturbance.CUT:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._target_port), 5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            pumps = [
                threading.Thread(
                    target=self._pump, args=(*direction, pair, from_server), daemon=True
                )
                for direction, from_server in (
                    ((client, server), False),
                    ((server, client), True),
                )
            ]
            for pump in pumps:
                pump.start()
            threading.Thread(
                target=self._close_when_done, args=(pumps, pair), daemon=True
            ).start()

    def _close_when_done(
        self, pumps: list[threading.Thread], pair: tuple[socket.socket, socket.socket]
    ) -> None:
        for pump in pumps:
            pump.join()
        for side in pair:
            side.close()

    def _pump(
        self,
        source: socket.socket,
        destination: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        from_server: bool,  # noqa: FBT001 a thread's arguments
    ) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                disturbance = self._disturbance
                if disturbance is Disturbance.SLOW:
                    time.sleep(self._delay_seconds)
                if disturbance is Disturbance.BLACK_HOLE or (
                    from_server
                    and disturbance in (Disturbance.NO_RESPONSES, Disturbance.HALF_CLOSED)
                ):
                    continue
                destination.sendall(chunk)
        self._shut_down(pair)

    def close(self) -> None:
        self._listener.close()
        self._shut_down_all()


@contextmanager
def proxy_of(url: str, slow_seconds: float | None = None) -> Iterator[Proxy]:
    """
    Provide a proxy for the port in C{url}, and close it after the block.

    @param slow_seconds: if it is given, the proxy delays each chunk of bytes for so long.
    """
    port = int(url.rpartition(":")[2])
    disturbance = Disturbance.SLOW if slow_seconds else Disturbance.NONE
    with (
        closing(Proxy(port, slow_seconds or DELAY_SECONDS)) as proxy,
        proxy.disturbed(disturbance),
    ):
        yield proxy
