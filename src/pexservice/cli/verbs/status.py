"""
C{pexctl status}: whether a running service accepts steps.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_server, base_url, seconds, urls_of
from pexservice.cli.output import UNREACHABLE, Result, VerbFailed


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "at", metavar="URL", nargs="?", type=base_url, help="the same as --url URL"
    )
    add_server(parser, several=False)
    parser.add_argument(
        "--process",
        metavar="PID",
        type=int,
        help="ask the supervisor with this process id, at the address it listens on",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=10.0,
        help="how long to wait for the status [default: 10]",
    )


def run(arguments: Namespace) -> Result:
    from attrs import asdict

    from pexservice.cli.readiness import (
        NotReady,
        SpeaksTLS,
        Unreachable,
        status_of,
        url_of_process,
    )

    timeout = arguments.timeout
    try:
        if arguments.process is None:
            url = arguments.at or urls_of(arguments)[-1]
            status = status_of(url, timeout, arguments.ca_file)
        else:
            try:
                status = status_of(url_of_process(arguments.process), timeout)
            except SpeaksTLS as error:
                # The connection does not leave this machine, so the certificate may have
                # any name.
                status = status_of(error.url, timeout, verify=False)
    except NotReady as error:
        raise VerbFailed(str(error), "not-ready") from error
    except Unreachable as error:
        raise VerbFailed(str(error), "unreachable", UNREACHABLE) from error
    return Result(
        f"ready: revision {status.revision}, position {status.position}",
        {"outcome": "ready", **asdict(status)},
    )
