"""
Ten thousand connections of one address, and how long an honest client of another waits.

Each connection sends half of a head, plain and over TLS, with as many connections allowed
as by default and with few descriptors; a connection that is closed is opened again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.labs.attacks.slow import percentile
from tests.support.crowd import Crowd, certified, honest
from tests.support.daemon import Daemon, children
from tests.support.evidence import Evidence, record

#: Half of a request's head.
HALF = b"GET /current HTTP/1.1\r\nHost: x\r\n"

#: By name: whether over TLS, how many connections, and how many descriptors there are.
WAYS = {
    "plain": (False, 10_000, None),
    "over TLS": (True, 10_000, None),
    "plain, with 700 descriptors": (False, 900, 700),
    "over TLS, with 700 descriptors": (True, 900, 700),
}

#: Requests of the honest client, each on its own connection.
TRIES = 200


def _python(place: Path, descriptors: int | None) -> str:
    """
    Return an interpreter that has so many descriptors.
    """
    if descriptors is None:
        return sys.executable
    script = place / "python"
    script.write_text(f'#!/bin/sh\nulimit -n {descriptors}\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def beside(name: str) -> list[float]:
    """
    Return the waits of an honest client next to the crowd of this name.  Seconds.
    """
    tls, count, descriptors = WAYS[name]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        options, context = certified(place) if tls else ((), None)
        python = _python(place, descriptors)
        with Daemon(place, *options, python=python) as daemon:
            workers = children(daemon.process.pid)
            # Over TLS, half of a head is half of a greeting.
            with Crowd(daemon.port, count, b"" if tls else HALF):
                waits = [*honest(daemon.port, TRIES, context)]
            assert children(daemon.process.pid)[: len(workers)] == workers
    return waits


def main() -> None:
    """
    Try each crowd, and record the waits.
    """
    waits_by_name = {}
    for name in WAYS:
        waits = waits_by_name[name] = beside(name)
        print(f"{name}: the longest wait was {1000 * max(waits):.0f} ms", flush=True)
    figures = "; ".join(
        f"{name}: {1000 * percentile(waits, 0.5):.0f} and {1000 * max(waits):.0f} ms"
        for name, waits in waits_by_name.items()
    )
    record(
        Evidence(
            name="crowds",
            promise="One address cannot exclude others.",
            size=TRIES * len(WAYS),
            unit="requests next to up to 10,000 incomplete requests of another address",
            result=f"all answered by the same worker; median and longest wait: {figures}",
            command="make attacks",
        )
    )


if __name__ == "__main__":
    main()
