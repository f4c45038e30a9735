"""
C{pexctl load}: tell how many steps a service makes, and whether it makes each of them once.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_service, number, seconds
from pexservice.cli.outcome import UNKNOWN, Result, VerbFailed

SUMMARY = "make steps as fast as they are answered, and count them by the history"
DESCRIPTION = """\
They really are made: the
cursor moves."""


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the arguments for the service, and for the size of the load.
    """
    add_service(parser)
    parser.add_argument(
        "--connections",
        metavar="N",
        type=number(1, 1000),
        default=10,
        help="how many steps are under way at a time [default: 10]",
    )
    parser.add_argument(
        "--seconds",
        metavar="SECONDS",
        type=seconds,
        default=10.0,
        help="how long to begin new ones [default: 10]",
    )


def run(arguments: Namespace) -> Result:
    """
    Make the load, and fail if a step is lost or of unknown outcome.
    """
    from attrs import asdict

    from pexservice.cli.calling import call
    from pexservice.cli.loading import Found, make_load
    from pexservice.cli.output import ProgressBar
    from pexservice.client import Cursor

    async def load(cursor: Cursor) -> Found:
        # Drawn and removed in one thread: an interrupt leaves no bar behind.
        with ProgressBar() as bar:
            return await make_load(
                cursor, arguments.connections, arguments.seconds, bar.show
            )

    found = call(arguments, load)
    if found.lost or found.unknown:
        raise VerbFailed(
            found.words(),
            "lost" if found.lost else "outcome-unknown",
            1 if found.lost else UNKNOWN,
            asdict(found),
        )
    return Result(found.words(), {"outcome": "done", **asdict(found)})
