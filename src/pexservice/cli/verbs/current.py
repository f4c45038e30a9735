"""
C{pexctl current}: where is the cursor?
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_service
from pexservice.cli.outcome import Result

SUMMARY = "tell the value at the cursor"
DESCRIPTION = "Nothing is moved."


def add_arguments(parser: ArgumentParser) -> None:
    """
    See L{pexservice.cli.pexctl.Verb}.
    """
    add_service(parser)


def run(arguments: Namespace) -> Result:
    """
    See L{pexservice.cli.pexctl.Verb}.
    """
    from pexservice.cli.calling import call, told

    state = call(arguments, lambda cursor: cursor.current())
    return Result(state.digits, {"outcome": "read", **told(state)})
