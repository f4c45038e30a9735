"""
Hostile clients: resets, floods, long queues, streams, crowds, and slow senders and readers.

Most attacks come from one address, plain and over TLS, with the access log and the rate
limit enabled.  Meanwhile, an honest client at another address makes requests.
"""

from __future__ import annotations

import asyncio
import csv
import ctypes
import ctypes.util
import os
import re
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from attrs import frozen

from tests.support.crowd import (
    ATTACKER,
    AUTHORITY,
    Crowd,
    certified,
    honest,
    limited_python,
)
from tests.support.daemon import TIMEOUT_SECONDS, WORKER, Daemon, read_all, wait_until
from tests.support.evidence import ROOT, record

#: How much processor time the worker may use while an honest client waits.  The real figure
#: is less than half a second, and it does not depend on the load of the machine.
MAX_WAIT_SECONDS = 3.0

#: How long half of an honest client's requests may wait next to clients that need little of
#: the worker's time.  The real figure is a few milliseconds.
MAX_MEDIAN_WAIT_SECONDS = 1.0

#: How many requests an honest client makes next to a crowd, each on its own connection.
REQUESTS_NEXT_TO_CROWD = 200

#: How many slow clients there are.
SLOW_CLIENTS = 1000

#: The step that a resetting client sends, without the end of its head.
STEP = b"POST /next HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"

#: More requests per second than any attack sends.
NO_LIMIT = ("--rate-limit", "1000000")


@frozen
class Target:
    """
    A service under attack.

    @ivar context: the TLS context of its clients, if its listener speaks TLS.
    """

    place: Path
    daemon: Daemon
    context: ssl.SSLContext | None

    def connect(self, address: str = ATTACKER) -> socket.socket:
        """
        Return a connection from C{address}.
        """
        connection = socket.socket()
        connection.settimeout(TIMEOUT_SECONDS)
        connection.bind((address, 0))
        connection.connect(("127.0.0.1", self.daemon.port))
        if self.context is None:
            return connection
        return self.context.wrap_socket(connection, server_hostname="127.0.0.1")

    def ask(self, request: bytes) -> bytes:
        """
        Send an honest request with C{Connection: close}, and return the response.
        """
        with self.connect("127.0.0.1") as connection:
            connection.sendall(request)
            return read_all(connection)

    def make_thousand_steps(self) -> None:
        steps = b"POST /next HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000
        self.ask(steps + b"GET /livez HTTP/1.0\r\n\r\n")

    def metrics(self) -> str:
        return self.ask(b"GET /metrics HTTP/1.0\r\n\r\n").decode()

    def metric(self, name: str) -> int:
        values = re.findall(rf"(?m)^{re.escape(name)} (\S+)$", self.metrics())
        return int(float(values[0]))

    def reset_after(self, sent: bytes) -> None:
        """
        Send C{sent} on a new connection, and reset the connection at once.
        """
        connection = self.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(sent)
        connection.close()

    def check_longest_wait(self, attack: Callable[[], object]) -> None:
        """
        Check the processor time of the worker during the longest wait of an honest client.

        The honest client makes its requests during C{attack}.  It is a process, because a
        thread would have to wait for the attacking threads.
        """
        _, worker = self.daemon.active_worker()
        command = [sys.executable, "-m", "tests.support.crowd"]
        command += [str(self.daemon.port), str(worker)]
        if self.context is not None:
            command.append(str(self.place / AUTHORITY))
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout is not None
            assert client.stdout.readline(), "the honest client was not served"
            attack()
            waited, _ = client.communicate(timeout=TIMEOUT_SECONDS)
        assert client.returncode == 0, "the honest client was not served"
        print(f"the honest client waited {waited} s of the worker's time", flush=True)
        assert float(waited) < MAX_WAIT_SECONDS


# Resets.


def reset_after_step(target: Target, size: int) -> None:
    """
    Reset connections right after a step: the service must release each of them.
    """
    for _ in range(size):
        target.reset_after(STEP + b"\r\n")
    wait_until(
        lambda: target.metric("pexservice_connections") <= 1, "all connections are released"
    )


def reset_with_forged_address(target: Target, size: int) -> None:
    """
    Reset connections, each with another forged client address: the rate limit must hold.
    """
    began = time.monotonic()
    for number in range(size):
        address = b"X-Forwarded-For: 198.51.%d.%d\r\n\r\n" % divmod(number, 256)
        target.reset_after(STEP + address)
    steps = target.metric("pexservice_revision")
    # The limit allows a burst of one second's worth.
    allowed = 5 * (time.monotonic() - began + 1)
    assert steps <= allowed, f"{steps} steps, and the rate limit allows {allowed:.0f}"


def reset_with_foreign_host(target: Target, size: int) -> None:
    """
    Reset connections with a foreign C{Host} in each request: no step may be made.
    """
    before = target.metric("pexservice_revision")
    for _ in range(size):
        target.reset_after(
            b"POST /next HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n"
        )
    steps = target.metric("pexservice_revision") - before
    assert steps == 0, f"{steps} steps by requests with a foreign Host"


# Floods of bytes.

_CHUNKED = b"POST /next HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"

#: By name: the bytes that each connection of a flood sends.
PIECES = {
    "one-byte chunks": _CHUNKED + b"1\r\nx\r\n" * 65_000,
    "empty lines": b"\r\n" * 131_072,
    "a refused head and empty lines": b"nonsense\r\n\r\n" + b"\r\n" * 131_072,
}


async def _flood(target: Target, sent: bytes, count: int) -> None:
    """
    Send C{sent} on C{count} connections at once, until the service closes them.
    """

    async def send() -> None:
        with suppress(OSError, asyncio.TimeoutError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1",
                target.daemon.port,
                local_addr=(ATTACKER, 0),
                ssl=target.context,
            )
            try:
                writer.write(sent)
                await writer.drain()
                # The service closes an incomplete request only after its timeout.
                await asyncio.wait_for(reader.read(), 2)
            finally:
                writer.transport.abort()

    await asyncio.gather(*(send() for _ in range(count)))


def flood(pieces: str) -> Callable[[Target, int], None]:
    """
    Return an attack with many connections, each of which sends C{PIECES[pieces]}.
    """

    def attack(target: Target, size: int) -> None:
        target.check_longest_wait(lambda: asyncio.run(_flood(target, PIECES[pieces], size)))

    return attack


class KeyUpdates:
    """
    A client of TLS 1.3 that sends KeyUpdate messages by calling OpenSSL.

    Python's C{ssl} has no function for them.
    """

    def __init__(self, port: int) -> None:
        name = ctypes.util.find_library("ssl")
        assert name is not None
        self._ssl = library = ctypes.CDLL(name)
        for function in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem"):
            getattr(library, function).restype = ctypes.c_void_p
        library.BIO_new.restype = ctypes.c_void_p
        self._in, self._out = (self._bio() for _ in range(2))
        context = ctypes.c_void_p(
            library.SSL_CTX_new(ctypes.c_void_p(library.TLS_client_method()))
        )
        self._connection = ctypes.c_void_p(library.SSL_new(context))
        library.SSL_set_bio(self._connection, self._in, self._out)
        library.SSL_set_connect_state(self._connection)
        self.socket = socket.create_connection(
            ("127.0.0.1", port), TIMEOUT_SECONDS, source_address=(ATTACKER, 0)
        )
        while library.SSL_do_handshake(self._connection) != 1:
            self.socket.sendall(self._encrypted())
            received = self.socket.recv(65_536)
            library.BIO_write(self._in, received, len(received))
        self.socket.sendall(self._encrypted())

    def _bio(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._ssl.BIO_new(ctypes.c_void_p(self._ssl.BIO_s_mem())))

    def _encrypted(self) -> bytes:
        data = b""
        buffer = ctypes.create_string_buffer(1 << 20)
        while (length := self._ssl.BIO_read(self._out, buffer, len(buffer))) > 0:
            data += buffer.raw[:length]
        return data

    def records(self, size: int) -> bytes:
        """
        Return KeyUpdate records of at least C{size} bytes.
        """
        data = b""
        while len(data) < size:
            for _ in range(1_000):
                # 0 is SSL_KEY_UPDATE_NOT_REQUESTED.
                self._ssl.SSL_key_update(self._connection, 0)
                self._ssl.SSL_do_handshake(self._connection)
            data += self._encrypted()
        return data


def update_keys(count: int) -> Callable[[Target, int], None]:
    """
    Return an attack by KeyUpdate records on C{count} connections, which the service closes.
    """

    def attack(target: Target, size: int) -> None:
        clients = [KeyUpdates(target.daemon.port) for _ in range(count)]
        records = [client.records(size // count) for client in clients]

        def send(client: KeyUpdates, data: bytes) -> None:
            with client.socket as connection, suppress(ConnectionError):
                connection.sendall(data)
                # Before the end, the service sends session tickets and an alert.
                read_all(connection)

        def send_all() -> None:
            with ThreadPoolExecutor(count) as threads:
                try:
                    list(threads.map(send, clients, records))
                except TimeoutError:
                    raise AssertionError("the service did not close a connection") from None

        target.check_longest_wait(send_all)
        # After 60 seconds, the service would close these connections as idle.
        floods = target.metric('pexservice_connections_closed_total{reason="flooding"}')
        assert floods == count, f"{floods} connections closed as floods, not {count}"

    return attack


# Queues and limits.


def ask_for_pages(target: Target, size: int) -> None:
    """
    Request many long pages of the history: another address must not wait for all of them.
    """
    target.make_thousand_steps()
    ask = b"GET /history?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    honest = b"GET /history?limit=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    _, worker = target.daemon.active_worker()
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(size)]
        other = stack.enter_context(target.connect("127.0.0.1"))
        # The stopped worker finds all requests at once when it continues.
        os.kill(worker, signal.SIGSTOP)
        try:
            for connection in connections:
                connection.sendall(ask)
            other.sendall(honest)
        finally:
            os.kill(worker, signal.SIGCONT)
        page = other.recv(65_536)
        assert page.startswith(b"HTTP/1.1 200 "), page
    log = target.place / "access.log"
    wait_until(lambda: "limit=1 " in log.read_text(), "the honest page is logged")
    served = log.read_text().partition("limit=1 ")[0].count("limit=1000 ")
    assert served < size / 2, f"{served} of {size} pages were made before the honest one"


def hold_streams(target: Target, size: int) -> None:
    """
    Open more event streams than one address may have: another address must still get one.
    """
    ask = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(size):
            connection = stack.enter_context(target.connect())
            connection.sendall(ask)
            connection.recv(1)
        with target.connect("127.0.0.1") as connection:
            connection.sendall(ask)
            received = connection.recv(65_536)
        assert received.startswith(b"HTTP/1.1 200 "), received


# Clients that never send a whole request, or send or receive slowly.


def check_median(waits: Sequence[float]) -> None:
    median = statistics.median(waits)
    print(f"waits: median {median:.4f} s, longest {max(waits):.4f} s", flush=True)
    assert median < MAX_MEDIAN_WAIT_SECONDS


def crowd(target: Target, size: int) -> None:
    """
    Open connections that send half of a head, or over TLS nothing.

    A connection that the service closes is opened again.
    """
    half = b"" if target.context else b"GET /current HTTP/1.1\r\nHost: x\r\n"
    port = target.daemon.port
    with Crowd(port, size, half):
        check_median([*honest(port, REQUESTS_NEXT_TO_CROWD, target.context)])


def slow_clients(*options: str, path: str = "/current") -> Callable[[Target, int], None]:
    """
    Return an attack by Debian's C{slowhttptest}, which lasts so many seconds.

    @param options: its options.
    @param path: the path of its requests.
    """

    def attack(target: Target, seconds: int) -> None:
        target.make_thousand_steps()
        before, port = target.daemon.revision(), target.daemon.port
        command = [
            *("slowhttptest", *options, "-u", f"http://127.0.0.1:{port}{path}"),
            *("-c", str(SLOW_CLIENTS), "-r", "500", "-l", str(seconds)),
            *("-p", str(TIMEOUT_SECONDS), "-g", "-o", str(target.place / "report")),
        ]
        waits: list[float] = []
        with (
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            ) as clients,
            closing(target.daemon.connect()) as kept_connection,
        ):
            while clients.poll() is None:
                began = time.monotonic()
                kept_connection.request("POST", "/next")
                response = kept_connection.getresponse()
                assert (response.status, bool(response.read())) == (200, True)
                waits += [time.monotonic() - began, *honest(port, 1, None)]
        assert clients.returncode == 0
        check_median(waits)
        # No slow client has made a step.
        assert target.daemon.revision() == before + len(waits) // 2
        rows = csv.DictReader((target.place / "report.csv").read_text().splitlines())
        # On a busy machine, not all of them connect in time.
        assert max(int(row["Connected"]) for row in rows) >= SLOW_CLIENTS / 2

    return attack


@frozen
class Kind:
    """
    A kind of attack.

    @ivar attack: makes the attack, with a size.
    @ivar short: the size in the short form.
    @ivar long: the size in the long form.
    @ivar options: the options of the service.
    @ivar listeners: the kinds of listeners that are attacked; C{worker} is a worker without
        a supervisor, on Twisted's reactor.
    @ivar max_descriptors: the service's limit of file descriptors.
    """

    attack: Callable[[Target, int], None]
    short: int
    long: int
    options: Sequence[str] = NO_LIMIT
    listeners: Sequence[str] = ("plain", "TLS")
    max_descriptors: int | None = None

    def run(self, place: Path, listener: str, size: int) -> None:
        """
        Start a service, attack it, and check that this has done no damage.

        @raise AssertionError: the attack succeeded, a worker was replaced, or an error was
            logged.
        """
        with target_for_attacks(
            place, listener, self.options, self.max_descriptors
        ) as target:
            self.attack(target, size)


@contextmanager
def target_for_attacks(
    place: Path,
    listener: str,
    options: Sequence[str] = NO_LIMIT,
    max_descriptors: int | None = None,
) -> Iterator[Target]:
    """
    Run a service, and check after the block that its worker lives and logged no error.
    """
    tls_options, context = certified(place) if listener == "TLS" else ((), None)
    options = ("--access-log", "access.log", *options, *tls_options)
    command = WORKER if listener == "worker" else "pexservice"
    if command != WORKER:
        options = ("--standby", "0", *options)
    python = limited_python(place, max_descriptors) if max_descriptors else sys.executable
    with Daemon(place, *options, command=command, python=python) as daemon:
        workers = daemon.workers()
        target = Target(place, daemon, context)
        yield target
        assert daemon.workers() == workers, "a worker was replaced"
        log = daemon.log.read_text()
        assert "Traceback" not in log, log
        assert " critical: " not in log, log
        errors = re.findall(r'status="500"} [1-9].*', target.metrics())
        assert not errors, errors


KINDS = {
    "reset after a step": Kind(reset_after_step, 200, 1500),
    "reset with a forged address": Kind(
        reset_with_forged_address, 200, 500, ("--rate-limit", "5")
    ),
    "reset with a foreign Host": Kind(reset_with_foreign_host, 200, 500),
    **{
        f"{count:,} connections of {pieces}": Kind(flood(pieces), count, count)
        for count in (20, 1000)
        for pieces in PIECES
    },
    "KeyUpdates": Kind(update_keys(1), 200_000, 30_000_000, listeners=("TLS",)),
    "40 connections of KeyUpdates": Kind(
        update_keys(40), 2_000_000, 20_000_000, listeners=("TLS",)
    ),
    "pages of the history": Kind(ask_for_pages, 50, 300),
    "streams": Kind(hold_streams, 260, 1000),
}

#: Attacks that last longer.  A size of slow clients is a number of seconds.
LONGER_KINDS = {
    "a crowd": Kind(crowd, 1000, 10_000),
    "a crowd, few descriptors": Kind(crowd, 900, 900, max_descriptors=700),
    **{
        name: Kind(attack, 8, 30, listeners=("plain", "worker"))
        for name, attack in {
            "slow headers": slow_clients("-H", "-i", "2"),
            "slow bodies": slow_clients("-B", "-i", "2", "-s", "60000"),
            # Ten responses of 60 KB each, at a few bytes per second.
            "slow reading": slow_clients(
                *("-X", "-k", "10", "-w", "1", "-y", "512", "-n", "1", "-z", "5"),
                path="/history?limit=1000",
            ),
        }.items()
    },
}


def main() -> None:
    """
    Make each attack in its long form.
    """
    tried = 0
    for name, kind in (KINDS | LONGER_KINDS).items():
        for listener in kind.listeners:
            with tempfile.TemporaryDirectory() as place:
                kind.run(Path(place), listener, kind.long)
            print(f"{name}, {listener}: withstood", flush=True)
            tried += 1
    record(
        "hostile",
        promise="Resets, floods of tiny pieces, key updates, crowds, slow clients and"
        " greedy addresses exclude no other client, and no reset is trusted.",
        size=tried,
        unit="attacks by up to 10,000 connections of one address",
        result="withstood, plain and over TLS, with access log and rate limit: the"
        " same workers, every connection released, no step without permission",
        command="make attacks",
    )


if __name__ == "__main__":
    main()
