"""
Free ports for servers that must know their port before they start.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """
    Reserve ports of 127.0.0.1 until the end of the block.

    Each port stays bound to a socket that does not listen.  Linux gives such a port to no
    process that binds port 0.  A process that binds it by its number with C{SO_REUSEADDR},
    as servers do, can listen on it, also repeatedly.
    """
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            holding = stack.enter_context(socket.socket())
            holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holding.bind(("127.0.0.1", 0))
            ports.append(holding.getsockname()[1])
        yield ports
