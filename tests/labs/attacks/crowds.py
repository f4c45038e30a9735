"""
Ten thousand incomplete requests of one address, and the waits of a client with another.

Each connection of the crowd sends half of a head, plain or over TLS.  The service has its
default limit of connections, or few file descriptors.  A connection that the service closes
is opened again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.labs.failover.lab import percentile
from tests.support.crowd import Crowd, certified, honest, limited_python
from tests.support.daemon import Daemon
from tests.support.evidence import record

#: Half of the head of a request.
HALF = b"GET /current HTTP/1.1\r\nHost: x\r\n"

#: By name: whether over TLS, the number of connections, and the limit of file descriptors.
CROWDS = {
    "plain": (False, 10_000, None),
    "over TLS": (True, 10_000, None),
    "plain, with 700 descriptors": (False, 900, 700),
    "over TLS, with 700 descriptors": (True, 900, 700),
}

#: How many requests the honest client makes, each on its own connection.
REQUEST_COUNT = 200


def waits_next_to_crowd(name: str) -> list[float]:
    """
    Return how long the honest client waited for each response, in seconds.
    """
    tls, count, descriptors = CROWDS[name]
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        options, context = certified(directory) if tls else ((), None)
        python = limited_python(directory, descriptors) if descriptors else sys.executable
        with Daemon(directory, *options, python=python) as daemon:
            workers = daemon.workers()
            # Over TLS, half of a head is half of a handshake.
            with Crowd(daemon.port, count, b"" if tls else HALF):
                waits = [*honest(daemon.port, REQUEST_COUNT, context)]
            assert daemon.workers()[: len(workers)] == workers
    return waits


def main() -> None:
    """
    Try each crowd, and record the waits.
    """
    waits_by_name = {}
    for name in CROWDS:
        waits = waits_by_name[name] = waits_next_to_crowd(name)
        print(f"{name}: longest wait {1000 * max(waits):.0f} ms", flush=True)
    figures = "; ".join(
        f"{name}: {1000 * percentile(waits, 0.5):.0f} and {1000 * max(waits):.0f} ms"
        for name, waits in waits_by_name.items()
    )
    record(
        "crowds",
        promise="One address cannot exclude others.",
        size=REQUEST_COUNT * len(CROWDS),
        unit="requests next to up to 10,000 incomplete requests of another address",
        result=f"all answered by the same worker; median and longest wait: {figures}",
        command="make attacks",
    )


if __name__ == "__main__":
    main()
