"""
C{pexctl status}: whether a running service accepts steps.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_server, seconds, url, urls_of
from pexservice.cli.outcome import UNREACHABLE, Result, VerbFailed


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "at", metavar="URL", nargs="?", type=url, help="the same as --url URL"
    )
    add_server(parser, several=False)
    parser.add_argument(
        "--process",
        metavar="PID",
        type=int,
        help="ask the supervisor with this process id, at its own --listen address",
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

    from pexservice.cli.readiness import NotReady, Unreachable, status_of

    try:
        if arguments.process is None:
            at = arguments.at or urls_of(arguments)[-1]
            status = status_of(at, arguments.timeout, arguments.ca_file)
        else:
            from pexservice.cli.running_service import url_of_process

            at = url_of_process(arguments.process)
            # The connection does not leave this machine, so its certificate may have any
            # name.
            status = status_of(at, arguments.timeout, verify=False)
    except NotReady as error:
        raise VerbFailed(str(error), "not-ready") from error
    except Unreachable as error:
        raise VerbFailed(str(error), "unreachable", UNREACHABLE) from error
    return Result(
        f"ready: revision {status.revision}, position {status.position}",
        {"outcome": "ready", **asdict(status)},
    )
