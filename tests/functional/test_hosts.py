"""
The checks of the C{Host} header and of the client's address, on real listeners.
"""

from __future__ import annotations

import json
import re
import socket
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.daemon import (
    LOOPBACK,
    REACTORS,
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    exchange_on_unix_socket,
    read_all,
)
from tests.support.forms import amount

FOREIGN = "attacker.example:8081"


def status(daemon: Daemon, host: str | None, *lines: str) -> int:
    """
    Make a step over IPv4 loopback, and return the status of the response.
    """
    headers = dict(line.split(": ", 1) for line in lines)
    if host is not None:
        headers["Host"] = host
    return daemon.request("/next", "POST", headers)[0].status


@pytest.mark.parametrize("reactor", amount(short=["uvloop"], long=REACTORS))
def test_unknown_host_over_loopback_gets_421_that_names_the_option(
    tmp_path: Path, reactor: str
) -> None:
    """
    The refusal is logged once, and the connection stays open.

    The machine's own names and the names in the option are accepted.  On listeners with
    wildcard addresses, the local address of the connection decides.
    """
    wildcards = ("--listen", "tcp:0", "--listen", r"tcp6:0:interface=\:\:")
    options = ("--listen", LOOPBACK, *wildcards, "--allowed-host", "Pex.example.org")
    with Daemon(tmp_path, *options, command=WORKER, reactor=reactor) as daemon:
        connection = daemon.connect()
        for _ in range(3):
            connection.request("POST", "/next", headers={"Host": FOREIGN})
            answer = connection.getresponse()
            assert (answer.status, b"--allowed-host" in answer.read()) == (421, True)
        connection.close()
        for path in ("/", "/current", "/events", "/metrics", "/nothing", "/openapi.json"):
            assert daemon.request(path, headers={"Host": FOREIGN})[0].status == 421
        names = (None, "localhost", "PEX.example.org.:8081", "[::1]:1", "127.0.0.1")
        statuses = [status(daemon, name) for name in (*names, socket.gethostname())]
        assert statuses == [200] * 6
        assert daemon.revision() == 6
        for port in wildcard_ports(daemon):
            seen_statuses = []
            for host in ("127.0.0.1", *own_addresses()):
                connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
                connection.request("POST", "/next", headers={"Host": FOREIGN})
                seen_statuses.append(connection.getresponse().status)
                connection.close()
            assert seen_statuses == [421] + [200] * len(own_addresses())
        log = daemon.log.read_text()
    assert log.count("--allowed-host attacker.example ") == 1


def test_verbose_livez_shows_the_processes(tmp_path: Path) -> None:
    """
    The process ids are those of the log.

    On a Unix socket, no process is shown, and the C{Host} is not checked.
    """
    with Daemon(tmp_path, "--listen", "unix:socket", "--listen", LOOPBACK) as daemon:
        daemon.until_up()
        (_, first), second = daemon.active_worker(), daemon.standby_worker()
        body = daemon.request("/livez", headers={"Accept": "application/json"})[1]
        assert json.loads(body)["processes"] == [
            {"name": "supervisor", "pid": daemon.process.pid, "state": "running"},
            {"name": "worker-1", "pid": first, "state": "active"},
            {"name": "worker-2", "pid": second, "state": "standby"},
        ]
        assert daemon.request("/livez?verbose")[1].decode() == (
            "[+]reactor ok\n"
            f"[+]supervisor is process {daemon.process.pid}: running\n"
            f"[+]worker-1 is process {first}: active\n"
            f"[+]worker-2 is process {second}: standby\n"
            "livez check passed\n"
        )
        assert status(daemon, FOREIGN) == 421
        for request in (b"POST /next", b"GET /livez?verbose"):
            sent = b"%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (request, FOREIGN.encode())
            response = exchange_on_unix_socket(tmp_path / "socket", sent)
            assert response.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b" is process " not in response


def test_host_is_not_checked_behind_proxies_or_tokens(tmp_path: Path) -> None:
    """
    It is not checked with C{--allowed-host *} either.
    """
    (tmp_path / "tokens").write_text("secret\n")
    for options in (
        ("--trusted-proxy", "127.0.0.1"),
        ("--allowed-host", "*"),
        ("--token-file", "tokens"),
    ):
        with Daemon(tmp_path, *options, command=WORKER) as daemon:
            assert status(daemon, FOREIGN, "Authorization: Bearer secret") == 200


@pytest.mark.parametrize("reactor", amount(short=["asyncio"], long=REACTORS))
def test_trusted_proxy_is_recognized_on_a_dual_stack_listener(
    tmp_path: Path, reactor: str
) -> None:
    """
    C{--trusted-proxy 127.0.0.1} also applies to a listener for both IPv4 and IPv6.

    So the rate limit counts each client behind the proxy, also if the proxy adds the
    client's port to the address.
    """
    options = ("--rate-limit", "1", "--trusted-proxy", "127.0.0.1")
    listener = ("--listen", r"tcp6:0:interface=\:\:")
    with (
        Daemon(tmp_path, *listener, *options, command=WORKER, reactor=reactor) as daemon,
        socket.create_connection(
            ("127.0.0.1", wildcard_ports(daemon)[0]), TIMEOUT_SECONDS
        ) as proxy,
    ):
        # On a busy machine this takes some seconds, and the rate limit allows one client
        # more requests.
        clients = [f"9.9.9.1:{4000 + number}" for number in range(100)]
        for client in (*clients, "[2001:db8::1]:443", "9.9.9.2"):
            lines = f"Host: localhost\r\nX-Forwarded-For: {client}"
            proxy.sendall(f"GET /current HTTP/1.1\r\n{lines}\r\n\r\n".encode())
        proxy.shutdown(socket.SHUT_WR)
        statuses = re.findall(rb"HTTP/1\.1 (\d+) ", read_all(proxy))
    first, *others, second_client, third_client = statuses
    assert (first, second_client, third_client) == (b"200", b"200", b"200")
    assert len(others) == 99
    assert b"429" in others


def wildcard_ports(daemon: Daemon) -> list[int]:
    """
    Return the ports of listeners on all addresses.
    """
    ports = re.findall(r"listening on (?!127)\S+:(\d+)", daemon.log.read_text())
    assert ports
    return [*map(int, ports)]


def own_addresses() -> list[str]:
    """
    Return at most one address of this machine that is not a loopback address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as chooser:
        try:
            # The call sends nothing; it only makes the kernel choose an address.
            chooser.connect(("192.0.2.1", 9))
        except OSError:
            return []
        host: str = chooser.getsockname()[0]
    return [] if host.startswith("127.") else [host]
