"""
C{pexctl current}: tell where the cursor is.
"""

from __future__ import annotations

from argparse import Namespace

from pexservice.cli.arguments import add_service
from pexservice.cli.outcome import Result

SUMMARY = "tell the value at the cursor"
DESCRIPTION = "Nothing is moved."


add_arguments = add_service


def run(arguments: Namespace) -> Result:
    """
    Ask the service for the state of the cursor.
    """
    from pexservice.cli.calling import call, told

    state = call(arguments, lambda cursor: cursor.current())
    return Result(state.digits, {"outcome": "read", **told(state)})
