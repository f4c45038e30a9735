"""
C{pexctl history}: list the steps that were made.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_service, number

SUMMARY = "list the latest steps, newest first"
DESCRIPTION = "With --json each is an object on\na line of its own."


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the arguments for the service, and for the steps to list.
    """
    add_service(parser)
    parser.add_argument(
        "--limit",
        metavar="N",
        type=number(0),
        default=100,
        help="how many at most [default: 100]",
    )
    parser.add_argument(
        "--before", metavar="N", type=number(0), help="only those before this revision"
    )


def run(arguments: Namespace) -> None:
    """
    Write a line for each step, newest first.
    """
    from attrs import asdict

    from pexservice.cli.calling import call
    from pexservice.cli.output import write
    from pexservice.client import Cursor

    async def read(cursor: Cursor) -> None:
        async for step in cursor.history(before=arguments.before, limit=arguments.limit):
            time = step.time.isoformat(timespec="microseconds").replace("+00:00", "Z")
            if arguments.json:
                write(json.dumps({**asdict(step), "time": time}))
            else:
                write(
                    f"{time} revision {step.revision} {step.transition}"
                    f" to position {step.position}"
                )

    call(arguments, read)
