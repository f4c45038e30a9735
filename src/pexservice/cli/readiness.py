"""
The status of a running service: whether it is ready, and where its cursor is.

The service is asked over HTTP, as any client would ask, and no value is read.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ssl import CERT_NONE, create_default_context
from urllib.parse import SplitResult, unquote, urlsplit

from attrs import frozen

from pexservice.core.text import printable


class Unreachable(Exception):
    """
    A URL where nothing answers, or something other than a pexservice.
    """


class NotReady(Exception):
    """
    A service that answers, and would not take a step.
    """


@frozen(kw_only=True)
class Status:
    """
    The status of a service that is ready.
    """

    url: str
    revision: int
    position: int


class _UnixConnection(HTTPConnection):
    """
    An HTTP connection over a Unix socket.
    """

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """
        Connect to the Unix socket.
        """
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


def status_of(
    url: str, timeout: float, ca_file: str | None = None, *, verify: bool = True
) -> Status:
    """
    Ask the service at C{url} for its status.

    @param timeout: how long to wait for the status, in seconds.
    @param ca_file: a PEM file of authorities to trust instead of the system's.
    @param verify: C{False} for a service of this machine, whose certificate has another
        name.
    @raise NotReady: the service says that it is not ready.
    @raise Unreachable: there is no answer, or none that a ready pexservice gives.
    """
    outcomes: list[Status | Exception] = []

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


def _ask_service(url: str, timeout: float, ca_file: str | None, *, verify: bool) -> Status:
    parts = urlsplit(url)
    prefix = "" if parts.scheme.endswith("unix") else parts.path.rstrip("/")
    try:
        with closing(_connection(parts, timeout, ca_file, verify=verify)) as connection:
            ready, body = _ask(connection, "GET", f"{prefix}/readyz?verbose")
            current, _ = _ask(connection, "HEAD", f"{prefix}/current")
    except HTTPException as error:
        words = printable(f"{type(error).__name__}: {error}")
        raise Unreachable(f"{url} does not speak HTTP: {words}") from error
    except TimeoutError as error:
        raise Unreachable(_timed_out(url, timeout)) from error
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
            f" {current.status}; it is no pexservice, or is busy"
        )
    revision, position = map(int, numbers)
    return Status(url=url, revision=revision, position=position)


def _ask(connection: HTTPConnection, method: str, path: str) -> tuple[HTTPResponse, str]:
    connection.request(method, path)
    answer = connection.getresponse()
    # No body of a pexservice is as long; one of another server may have no end.
    return answer, answer.read(65536).decode(errors="replace")


def _reasons(body: str) -> str:
    """
    Return the checks that failed, or else the whole of C{body}, on one line.
    """
    failed = re.findall(r"^\[-\](.+)$", body, re.MULTILINE)
    return printable("; ".join(failed) or body) or "it does not say why"
