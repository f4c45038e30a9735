"""
Ports for servers that cannot choose one themselves and tell which.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """
    Give ports of 127.0.0.1 that no other process gets until the end of the block.

    Each stays bound to a socket that does not listen.  Linux gives such a port to no
    process that asks for any free port, and lets it be bound and listened on, again and
    again, by a process that names it and sets C{SO_REUSEADDR}, as servers do.
    """
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            holding = stack.enter_context(socket.socket())
            holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holding.bind(("127.0.0.1", 0))
            ports.append(holding.getsockname()[1])
        yield ports
