"""
C{pexctl status}: tell whether a running service takes steps.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_server, seconds, url, urls_of
from pexservice.cli.outcome import UNREACHABLE, Result, VerbFailed

SUMMARY = "ask a running service whether it takes steps"
DESCRIPTION = ""


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the arguments for the service, a URL or a process id, and for the longest wait.
    """
    parser.add_argument(
        "at", metavar="URL", nargs="?", type=url, help="the same as --url URL"
    )
    add_server(parser, several=False)
    parser.add_argument(
        "--process",
        metavar="PID",
        type=int,
        help="a supervisor on this machine, asked where it was told to listen",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=10.0,
        help="how long to wait for it [default: 10]",
    )


def run(arguments: Namespace) -> Result:
    """
    Ask the service whether it is ready.
    """
    from attrs import asdict

    from pexservice.cli.readiness import NotReady, Unreachable, status_of

    try:
        if arguments.process is None:
            at = arguments.at or urls_of(arguments)[-1]
            status = status_of(at, arguments.timeout, arguments.ca_file)
        else:
            from pexservice.cli.running_service import url_of_process

            at = url_of_process(arguments.process)
            # The service is on this machine: nobody is between it and this process.
            status = status_of(at, arguments.timeout, verify=False)
    except NotReady as error:
        raise VerbFailed(str(error), "not-ready") from error
    except Unreachable as error:
        raise VerbFailed(str(error), "unreachable", UNREACHABLE) from error
    return Result(
        f"ready: revision {status.revision}, position {status.position}",
        {"outcome": "ready", **asdict(status)},
    )
