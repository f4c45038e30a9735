"""
A server in threads, for servers that misbehave.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from tests.support.daemon import TIMEOUT_SECONDS


@contextmanager
def serving_connections(
    serve: Callable[[socket.socket], object], listening: socket.socket | None = None
) -> Iterator[int]:
    """
    Call C{serve} with each connection, in its own thread; yield the port of 127.0.0.1.

    C{serve} may raise C{OSError}.  The connection is closed when it returns.

    @param listening: a socket to use instead of a TCP socket.
    """
    listening = listening or socket.create_server(("127.0.0.1", 0))

    def serve_one(connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            connection.settimeout(TIMEOUT_SECONDS)
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    with listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            # Closing the socket would not wake the thread that accepts connections.
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
