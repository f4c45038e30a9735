"""
A proxy that loses responses, for tests of clients that repeat their requests.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

from attrs import frozen

from tests.support.daemon import read_response
from tests.support.tcp_server import serving_connections

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n"
    b"Retry-After: 0\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbusy\n"
)


@frozen
class TroublesomeProxy:
    """
    A proxy that loses the response to the first attempt of each step.

    It forwards the first attempt to the service.  It responds to the second attempt with
    503 itself, and forwards the later ones and their responses.

    @ivar port: the port that it listens on.
    @ivar attempts: the number of attempts by key.
    """

    port: int
    attempts: Counter[bytes]


@contextmanager
def troublesome_proxy(upstream: int) -> Iterator[TroublesomeProxy]:
    """
    Run a proxy in front of the port C{upstream} of 127.0.0.1.
    """
    attempts: Counter[bytes] = Counter()
    with serving_connections(partial(_serve, upstream, attempts)) as port:
        yield TroublesomeProxy(port, attempts)


def _serve(upstream: int, attempts: Counter[bytes], connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        received = connection.recv(65536)
        if not received:
            return
        request += received
    key = re.search(rb"(?i)\r\nidempotency-key: (\S+)", request)
    if key is not None:
        attempts[key[1]] += 1
        if attempts[key[1]] == 2:
            connection.sendall(_BUSY)
            return
    with closing(socket.create_connection(("127.0.0.1", upstream))) as to:
        to.sendall(request)
        if key is not None and attempts[key[1]] == 1:
            read_response(to)
        elif request.startswith(b"GET /events"):
            while received := to.recv(65536):
                connection.sendall(received)
        else:
            head = b"\r\nConnection: close\r\n"
            connection.sendall(read_response(to).replace(b"\r\n", head, 1))
