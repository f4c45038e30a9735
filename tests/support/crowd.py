"""
Hundreds of connections that never send a whole request, and an honest client.

C{python -m tests.support.crowd PORT PID [AUTHORITY]} is the honest client: it sends
requests until its standard input ends.  Then it prints the longest wait for a response, in
seconds of processor time that the process C{PID} used meanwhile.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from threading import Event, Thread
from typing import Self

import trustme

from tests.support.daemon import TIMEOUT_SECONDS

#: The crowd's address, which differs from that of the honest client.
ATTACKER = "127.0.0.2"

#: The file into which L{certified} writes the certificate of the authority.
AUTHORITY = "authority.pem"

#: A crowd opens at most this many connections before it checks which ones were closed.
_BATCH = 50


class Crowd:
    """
    Connections from one address that send a part of a request, or nothing.

    If the server closes a connection, the crowd opens another one.
    """

    def __init__(self, port: int, count: int, piece: bytes) -> None:
        self._address = ("127.0.0.1", port)
        self._count, self._piece = count, piece
        self._stopped = Event()
        self.standing = Event()
        self.connected_count = 0
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.standing.wait(TIMEOUT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with ExitStack() as stack:
            held: list[socket.socket] = []
            while not self._stopped.is_set():
                held = [connection for connection in held if not _is_closed(connection)]
                for _ in range(min(_BATCH, self._count - len(held))):
                    connection = stack.enter_context(socket.socket())
                    connection.bind((ATTACKER, 0))
                    connection.settimeout(TIMEOUT_SECONDS)
                    connection.connect(self._address)
                    connection.sendall(self._piece)
                    connection.setblocking(False)  # noqa: FBT003 its only argument
                    held.append(connection)
                    self.connected_count += 1
                if self.connected_count >= self._count:
                    self.standing.set()
                if len(held) == self._count:
                    self._stopped.wait(0.05)


def _is_closed(connection: socket.socket) -> bool:
    """
    Return whether the server has closed C{connection}; if so, close it here too.
    """
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def honest(
    port: int,
    tries: int,
    context: ssl.SSLContext | None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[float]:
    """
    Yield how many seconds each request of an honest client waits for its response.

    Each request uses a new connection.
    """
    for _ in range(tries):
        began = clock()
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        if context is not None:
            connection = HTTPSConnection(
                "127.0.0.1", port, timeout=TIMEOUT_SECONDS, context=context
            )
        connection.request("GET", "/current")
        status = connection.getresponse().status
        connection.close()
        assert status == 200, status
        yield clock() - began


def certified(
    place: Path, *names: str, not_after: datetime | None = None
) -> tuple[tuple[str, ...], ssl.SSLContext]:
    """
    Make a certificate for some names, by default for the loopback address.

    @return: the service's options for the certificate, and a TLS context that trusts it.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(place / AUTHORITY)
    chain, key = place / "chain.pem", place / "key.pem"
    issued = authority.issue_cert(*(names or ["127.0.0.1"]), not_after=not_after)
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return ("--tls-certificate", str(chain), "--tls-key", str(key)), context


def limited_python(directory: Path, descriptors: int) -> str:
    """
    Return the path of an interpreter with this limit of file descriptors.
    """
    script = directory / "python"
    script.write_text(f'#!/bin/sh\nulimit -n {descriptors}\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def main() -> None:
    port, pid, *authority = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority[0]) if authority else None
    clock = partial(processor_seconds, int(pid))
    waits = [*honest(int(port), 1, context, clock)]
    print("served", flush=True)
    ended = Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    Thread(target=wait_for_the_end, daemon=True).start()
    while not ended.is_set():
        waits += honest(int(port), 1, context, clock)
    print(max(waits))


if __name__ == "__main__":
    main()
