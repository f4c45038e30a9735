"""
Is a running service ready, and where is its cursor?  Asked over HTTP, as any client
would, without reading a value.
"""

from __future__ import annotations

import re
import socket
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ssl import CERT_NONE, create_default_context
from urllib.parse import SplitResult, unquote, urlsplit

from attrs import frozen


class Unreachable(Exception):
    """
    Nobody answers there, or somebody else does.
    """


class NotReady(Exception):
    """
    It answers, and would not take a step.
    """


@frozen(kw_only=True)
class Status:
    """
    Of a service that is ready.
    """

    url: str
    revision: int
    position: int


class _UnixConnection(HTTPConnection):
    """
    HTTP over a Unix socket.
    """

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """
        See C{HTTPConnection.connect}.
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
    Ask the service at C{url}.

    @param timeout: seconds, for each answer.
    @param ca_file: a PEM file of authorities to trust instead of the system's.
    @param verify: C{False} for a service of this machine, whose certificate has another
        name.
    @raise NotReady: it says so.
    @raise Unreachable: nobody says anything, or nothing that is known.
    """
    parts = urlsplit(url)
    prefix = "" if parts.scheme.endswith("unix") else parts.path.rstrip("/")
    try:
        with closing(_connection(parts, timeout, ca_file, verify=verify)) as connection:
            ready, body = _ask(connection, "GET", f"{prefix}/readyz?verbose")
            current, _ = _ask(connection, "HEAD", f"{prefix}/current")
    except HTTPException as error:
        raise Unreachable(f"{url} does not speak HTTP: {error!r}") from error
    except OSError as error:
        raise Unreachable(f"{url}: {error.strerror or error}") from error
    if ready.status == 503:  # noqa: PLR2004 the status of not being ready
        raise NotReady(f"{url} is not ready: {_reasons(body)}")
    numbers = [current.headers.get(f"Pex-{name}", "") for name in ("Revision", "Position")]
    if (ready.status, current.status) != (200, 200) or not all(map(str.isdigit, numbers)):
        raise Unreachable(
            f"{url} answers /readyz with {ready.status} and /current with"
            f" {current.status}; it is no pexservice, or is busy"
        )
    revision, position = map(int, numbers)
    return Status(url=url, revision=revision, position=position)


def _ask(connection: HTTPConnection, method: str, path: str) -> tuple[HTTPResponse, str]:
    connection.request(method, path)
    answer = connection.getresponse()
    # More than any of ours has; what somebody else sends may have no end.
    return answer, answer.read(65536).decode(errors="replace")


def _reasons(body: str) -> str:
    """
    The checks that failed, or what stands there instead, on one line.
    """
    failed = re.findall(r"^\[-\](.+)$", body, re.MULTILINE)
    return "; ".join(failed) or " ".join(body.split()) or "it does not say why"
