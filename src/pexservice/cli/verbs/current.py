"""
C{pexctl current}: tell where the cursor is.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_service
from pexservice.cli.outcome import Result

SUMMARY = "tell the value at the cursor"
DESCRIPTION = "Nothing is moved."


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the arguments of a verb that calls a service.
    """
    add_service(parser)


def run(arguments: Namespace) -> Result:
    """
    Ask the service for the state of the cursor.
    """
    from pexservice.cli.calling import call, told

    state = call(arguments, lambda cursor: cursor.current())
    return Result(state.digits, {"outcome": "read", **told(state)})
