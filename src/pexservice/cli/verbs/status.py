"""
C{pexctl status}: does a running service take steps?
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from pexservice.cli.outcome import Result, VerbFailed

SUMMARY = "ask a running service whether it takes steps"
DESCRIPTION = ""

URL = "http://127.0.0.1:8081"
_URLS = "http://HOST:PORT, https://HOST:PORT or unix:PATH"

#: EX_UNAVAILABLE.
_UNREACHABLE = 69


def _url(text: str) -> str:
    from pexservice.cli.readiness import is_url

    if not is_url(text):
        raise ArgumentTypeError(f"{text}: must be {_URLS}")
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or not float(text):
        raise ArgumentTypeError(f"{text}: must be seconds, more than 0")
    return float(text)


def add_arguments(parser: ArgumentParser) -> None:
    """
    See L{pexservice.cli.pexctl.Verb}.
    """
    parser.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        type=_url,
        default=URL,
        help=f"{_URLS} [default: {URL}]",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="how long to wait for it [default: 10]",
    )


def run(arguments: Namespace) -> Result:
    """
    See L{pexservice.cli.pexctl.Verb}.
    """
    from attrs import asdict

    from pexservice.cli.readiness import NotReady, Unreachable, status_of

    try:
        status = status_of(arguments.url, arguments.timeout)
    except NotReady as error:
        raise VerbFailed(str(error), "not-ready") from error
    except Unreachable as error:
        raise VerbFailed(str(error), "unreachable", _UNREACHABLE) from error
    return Result(
        f"ready: revision {status.revision}, position {status.position}",
        {"outcome": "ready", **asdict(status)},
    )
