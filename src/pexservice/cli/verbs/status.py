"""
C{pexctl status}: whether a running service accepts steps, and where its cursor is.

Health checks run C{status} every few seconds.  So this module does not import Twisted,
which takes time, and does not ask for the value, which may be long.
"""

from __future__ import annotations

import re
import socket
import threading
from argparse import Namespace
from contextlib import closing
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from ssl import CERT_NONE, SSLContext, create_default_context
from urllib.parse import urlsplit

from pexservice.cli.output import WRONG_ARGUMENTS, Result, VerbFailed
from pexservice.cli.verb import (
    CALL_STATUSES,
    SERVER,
    Results,
    argument,
    base_url,
    duration,
    urls_of,
    verb,
)
from pexservice.core.base_url import BaseURL
from pexservice.core.text import printable

_MAX_CONTENT_BYTES = 64 << 10

#: The line of C{/livez?verbose} about a process: its name, its process id and its state.
_PROCESS = re.compile(r"^\[\+\](\S{1,30}) is process (\d{1,10}): (.{1,30})$", re.MULTILINE)


@verb(
    "status",
    CALL_STATUSES,
    [
        argument("at", "URL", "the same as --url URL", base_url, nargs="?"),
        *SERVER,
        argument(
            "--process",
            "PID",
            "ask the supervisor with this process id, at the address it listens on",
            int,
        ),
        argument("--timeout", "SECONDS", "how long to wait for the status", duration, 10),
    ],
    "pexctl status",
    "pexctl status unix:/run/pexservice/http.sock",
)
def status(arguments: Namespace) -> Results:
    """
    Ask a running service whether it accepts steps.
    """
    if arguments.process is None:
        url = arguments.at or urls_of(arguments)[-1]
    else:
        url = _url_of_process(arguments.process)
    try:
        context = create_default_context(cafile=arguments.ca_file) if url.is_https else None
    except OSError as error:
        message = f"--ca-file {arguments.ca_file}: {error.strerror or error}"
        raise VerbFailed(message, exit_status=WRONG_ARGUMENTS) from error
    if context is not None and arguments.process is not None:
        # The connection stays on this machine, so the certificate is not checked.
        context.check_hostname, context.verify_mode = False, CERT_NONE
    yield _status_in_time(url, arguments.timeout, context)


def _unreachable(message: str) -> VerbFailed:
    return VerbFailed(message, "unreachable")


def _url_of_process(process_id: int) -> BaseURL:
    from pexservice.process import scoreboard
    from pexservice.process.supervisor_report import read_report

    try:
        board = scoreboard.of_process(process_id)
    except OSError as error:
        raise _unreachable(f"process {process_id}: {error.strerror}") from error
    report = read_report(board)
    if report is None or not report.address:
        raise _unreachable(f"process {process_id} is no pexservice that has started")
    if report.address.startswith(("unix:", "http+unix:")):
        return BaseURL.parse(report.address)
    return BaseURL.parse(f"{'https' if report.has_tls else 'http'}://{report.address}")


def _status_in_time(url: BaseURL, timeout: float, context: SSLContext | None) -> Result:
    """
    Ask the service at C{url} for its status, and wait at most C{timeout} seconds.

    @param context: verifies the certificate of an C{https} URL.
    @raise VerbFailed: the service is not ready, or no pexservice responds in time.
    """
    outcomes: list[Result | Exception] = []

    def ask() -> None:
        try:
            outcomes.append(_status_of(url, context))
        except Exception as error:  # noqa: BLE001 raised again below
            outcomes.append(error)

    # The timeout of http.client is for each read.  A server that sends one byte at a time,
    # or "100 Continue" for ever, must not keep this process waiting.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    late = _unreachable(f"{url}: no response within {timeout:g} s")
    (outcome,) = outcomes or [late]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _status_of(url: BaseURL, context: SSLContext | None) -> Result:
    try:
        ready, body = _ask(url, context, "GET", "/readyz?verbose")
        current, _ = _ask(url, context, "HEAD", "/current")
        _, checks = _ask(url, context, "GET", "/livez?verbose")
    except ConnectionRefusedError as error:
        raise _unreachable(f"{url}: {error.strerror}") from error
    except (HTTPException, ConnectionError) as error:
        reason_text = printable(str(error))
        if isinstance(error, ConnectionError | IncompleteRead):
            reason_text = "the connection closed before the complete response arrived"
        hint = f"; if it speaks TLS, use https{url.text.removeprefix('http')}"
        if url.socket is not None or url.is_https:
            hint = ""
        message = f"{url} does not speak HTTP: {reason_text}{hint}"
        raise _unreachable(message) from error
    except (OSError, UnicodeError) as error:
        reason_text = getattr(error, "strerror", None) or str(error)
        raise _unreachable(f"{url}: {reason_text}") from error
    if ready.status == 503:  # noqa: PLR2004 the status of not being ready
        failed = "; ".join(re.findall(r"^\[-\](.+)$", body, re.MULTILINE))
        reason = printable(failed or body) or "the response gives no reason"
        raise VerbFailed(f"{url} is not ready: {reason}", "not-ready")
    numbers = [current.headers.get(f"Pex-{name}", "") for name in ("Revision", "Position")]
    if (ready.status, current.status) != (200, 200) or not all(
        re.fullmatch(r"[0-9]{1,19}", text) for text in numbers
    ):
        raise _unreachable(
            f"{url} answers /readyz with {ready.status} and /current with"
            f" {current.status}; it is no pexservice, or it is busy"
        )
    revision, position = map(int, numbers)
    line = f"ready: revision {revision}, position {position}"
    fields: dict[str, object] = {
        "outcome": "ready",
        "url": str(url),
        "revision": revision,
        "position": position,
    }
    # The service lists its processes only to a local client whose Host it checks.
    if processes := _PROCESS.findall(checks):
        described = (f"{name} is process {pid} ({state})" for name, pid, state in processes)
        line = printable(f"{line}; {', '.join(described)}")
        fields["processes"] = [
            {"name": name, "pid": int(pid), "state": state}
            for name, pid, state in processes
        ]
    return Result(line, fields)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def _ask(
    url: BaseURL, context: SSLContext | None, method: str, path: str
) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(url.host, url.port)
    if url.socket is not None:
        connection = _UnixConnection(url.socket)
    elif url.is_https:
        connection = HTTPSConnection(url.host, url.port, context=context)
    # Each request has its own connection, because a server may close it after a response.
    with closing(connection):
        connection.request(method, f"{urlsplit(url.url).path}{path}")
        response = connection.getresponse()
        # If the server is no pexservice, its body may have no end.
        return response, response.read(_MAX_CONTENT_BYTES).decode(errors="replace")
