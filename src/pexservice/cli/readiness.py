"""
The status of a running service: whether it is ready, and where its cursor is.

The status comes over HTTP, like any client's response, and contains no value.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from ssl import CERT_NONE, create_default_context
from urllib.parse import SplitResult, unquote, urlsplit

from attrs import frozen

from pexservice.core.text import printable

_PROBE_TIMEOUT_SECONDS = 2.0

_MAX_BODY_BYTES = 64 << 10

#: The kernel's tables of sockets, in the order in which they are searched.
_TABLES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}


class Unreachable(Exception):
    """
    No pexservice answers.
    """


class SpeaksTLS(Unreachable):
    """
    The server at an C{http} URL speaks TLS.

    @ivar url: the URL to use instead.
    """

    def __init__(self, http_url: str) -> None:
        self.url = f"https{http_url.removeprefix('http')}"
        super().__init__(f"{http_url}: the server speaks TLS; use {self.url}")


class NotReady(Exception):
    """
    The service answers, but would not accept a step.
    """


@frozen(kw_only=True)
class ServiceStatus:
    """
    The status of a ready service.
    """

    url: str
    revision: int
    position: int


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(
    parts: SplitResult, timeout: float, ca_file: str | None, *, verify: bool
) -> HTTPConnection:
    if parts.scheme.endswith("unix"):
        return _UnixConnection(unquote(parts.netloc) + parts.path, timeout)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = create_default_context(cafile=ca_file)
        if not verify:
            context.check_hostname, context.verify_mode = False, CERT_NONE
        return HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    return HTTPConnection(host, parts.port, timeout=timeout)


def url_of_process(pid: int) -> str:
    """
    Return the base URL of the service whose supervisor has the process id C{pid}.

    The kernel lists the sockets that the process listens on, also inherited ones.  It does
    not know TLS: the scheme is always C{http}.

    @raise Unreachable: the process listens on no socket, or does not exist.
    """
    process = Path(f"/proc/{pid}")
    try:
        links = {_target(descriptor) for descriptor in (process / "fd").iterdir()}
        tables = {name: (process / "net" / name).read_text() for name in _TABLES}
    except OSError as error:
        raise Unreachable(f"process {pid}: {error.strerror}") from error
    for name, family in _TABLES.items():
        for row in tables[name].splitlines()[1:]:
            fields = row.split()
            if family is socket.AF_UNIX:
                inode, listens, address = fields[6], fields[3] == "00010000", fields[-1]
            else:
                inode, listens, address = fields[9], fields[3] == "0A", fields[1]
            if f"socket:[{inode}]" not in links or not listens:
                continue
            if family is socket.AF_UNIX:
                return f"unix:{process / 'cwd' / address}"
            host, port = _host_and_port(family, address)
            return f"http://{f'[{host}]' if ':' in host else host}:{port}"
    raise Unreachable(f"process {pid} listens on no socket: it is no pexservice")


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        # The process has closed the descriptor.
        return ""


def _host_and_port(family: socket.AddressFamily, address: str) -> tuple[str, int]:
    """
    Return where to connect to a socket that listens on C{address}, in the kernel's form.
    """
    words, port = address.split(":")
    # Words of four bytes, each in the machine's byte order.
    packed = b"".join(
        int(words[start : start + 8], 16).to_bytes(4, sys.byteorder)
        for start in range(0, len(words), 8)
    )
    if not any(packed):
        return ("127.0.0.1" if family is socket.AF_INET else "::1"), int(port, 16)
    return socket.inet_ntop(family, packed), int(port, 16)


def _speaks_tls(host: str, port: int) -> bool:
    context = create_default_context()
    context.check_hostname, context.verify_mode = False, CERT_NONE
    try:
        with (
            socket.create_connection((host, port), _PROBE_TIMEOUT_SECONDS) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except OSError:
        return False


def status_of(
    url: str, timeout: float, ca_file: str | None = None, *, verify: bool = True
) -> ServiceStatus:
    """
    Ask the service at C{url} for its status.

    @param timeout: how long to wait for the status, in seconds.
    @param ca_file: a PEM file of authorities to trust instead of the system's.
    @param verify: C{False} for a service of this machine, whose certificate may have any
        name.
    @raise NotReady: the service reports that it is not ready.
    @raise Unreachable: no ready pexservice answers.
    """
    outcomes: list[ServiceStatus | Exception] = []

    def ask() -> None:
        try:
            outcomes.append(_ask_service(url, timeout, ca_file, verify=verify))
        except Exception as error:  # noqa: BLE001 raised again below
            outcomes.append(error)

    # http.client has a timeout for each read only.  A server that sends one byte at a time,
    # or "100 Continue" for ever, must not keep this process waiting.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    outcome = outcomes[0] if outcomes else Unreachable(_timed_out(url, timeout))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _timed_out(url: str, timeout: float) -> str:
    return f"{url}: no response within {timeout:g} s"


def _ask_service(
    url: str, timeout: float, ca_file: str | None, *, verify: bool
) -> ServiceStatus:
    parts = urlsplit(url)
    prefix = "" if parts.scheme.endswith("unix") else parts.path.rstrip("/")
    try:
        with closing(_connection(parts, timeout, ca_file, verify=verify)) as connection:
            ready, body = _ask(connection, "GET", f"{prefix}/readyz?verbose")
            current, _ = _ask(connection, "HEAD", f"{prefix}/current")
    except TimeoutError as error:
        raise Unreachable(_timed_out(url, timeout)) from error
    except (HTTPException, ConnectionError) as error:
        if parts.scheme == "http" and _speaks_tls(parts.hostname or "", parts.port or 80):
            raise SpeaksTLS(url) from error
        if isinstance(error, ConnectionError) and error.strerror:
            raise Unreachable(f"{url}: {error.strerror}") from error
        words = printable(f"{type(error).__name__}: {error}")
        raise Unreachable(f"{url} does not speak HTTP: {words}") from error
    except OSError as error:
        raise Unreachable(f"{url}: {error.strerror or error}") from error
    if ready.status == 503:  # noqa: PLR2004 the status of not being ready
        raise NotReady(f"{url} is not ready: {_reasons(body)}")
    numbers = [current.headers.get(f"Pex-{name}", "") for name in ("Revision", "Position")]
    if (ready.status, current.status) != (200, 200) or not all(
        re.fullmatch(r"[0-9]{1,19}", text) for text in numbers
    ):
        raise Unreachable(
            f"{url} answers /readyz with {ready.status} and /current with"
            f" {current.status}; it is no pexservice, or it is busy"
        )
    revision, position = map(int, numbers)
    return ServiceStatus(url=url, revision=revision, position=position)


def _ask(connection: HTTPConnection, method: str, path: str) -> tuple[HTTPResponse, str]:
    connection.request(method, path)
    response = connection.getresponse()
    # The body of another server may have no end.
    return response, response.read(_MAX_BODY_BYTES).decode(errors="replace")


def _reasons(body: str) -> str:
    """
    Return the failed checks in C{body}, or C{body} if it has none.
    """
    failed = re.findall(r"^\[-\](.+)$", body, re.MULTILINE)
    return printable("; ".join(failed) or body) or "the response gives no reason"
