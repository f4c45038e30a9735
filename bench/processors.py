"""
The processor time of a server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENS = "0A"


class Processes:
    """
    The processes that listen on a port, including those that inherited the socket.
    """

    def __init__(self) -> None:
        self._listening: dict[int, list[int]] = {}

    def seconds(self, port: int) -> float:
        """
        Return how many seconds of processor time the processes on C{port} have used.
        """
        if port not in self._listening:
            self._listening[port] = [*_holders({*_sockets(port)})]
        return sum(map(_spent, self._listening[port]))


def _sockets(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == _LISTENS:
                yield f"socket:[{fields[9]}]"


def _holders(sockets: set[str]) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = {str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()}
        except OSError:
            # The process has ended, or belongs to another user.
            continue
        if held & sockets:
            yield int(process.name)


def _spent(process: int) -> float:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0
    # The fields are counted after the name, which may contain spaces.
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS
