"""
A proxy that loses responses, for tests of clients that repeat their requests.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from tests.support.daemon import TIMEOUT_SECONDS, read_response

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n"
    b"Retry-After: 0\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbusy\n"
)


class TroublesomeProxy(threading.Thread):
    """
    A proxy that loses the response to the first attempt of each step.

    It forwards the first attempt to the service.  It responds to the second attempt with
    503 itself, and forwards the later ones and their responses.

    @ivar port: the port that it listens on.
    @ivar attempts: the number of attempts by key.
    """

    def __init__(self, upstream: int) -> None:
        super().__init__(daemon=True)
        self._upstream = upstream
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.attempts: dict[bytes, int] = {}

    def run(self) -> None:
        """
        Serve each connection in its own thread.
        """
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(
                    target=self._serve, args=(connection,), daemon=True
                ).start()

    def close(self) -> None:
        """
        Accept no more connections.
        """
        # Closing the socket would not wake the thread that accepts connections.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.join(TIMEOUT_SECONDS)

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            connection.settimeout(TIMEOUT_SECONDS)
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(65536)
                if not received:
                    return
                request += received
            key = re.search(rb"(?i)\r\nidempotency-key: (\S+)", request)
            if key is not None:
                self.attempts[key[1]] = self.attempts.get(key[1], 0) + 1
                if self.attempts[key[1]] == 2:
                    connection.sendall(_BUSY)
                    return
            with closing(socket.create_connection(("127.0.0.1", self._upstream))) as to:
                to.sendall(request)
                if key is not None and self.attempts[key[1]] == 1:
                    read_response(to)
                elif request.startswith(b"GET /events"):
                    while received := to.recv(65536):
                        connection.sendall(received)
                else:
                    answer = read_response(to)
                    head = b"\r\nConnection: close\r\n"
                    connection.sendall(answer.replace(b"\r\n", head, 1))


@contextmanager
def troublesome_proxy(upstream: int) -> Iterator[TroublesomeProxy]:
    """
    Run a proxy in front of the port C{upstream} of 127.0.0.1.
    """
    proxy = TroublesomeProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
