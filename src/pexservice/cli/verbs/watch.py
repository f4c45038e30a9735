"""
C{pexctl watch}: tell the cursor whenever it has moved.
"""

from __future__ import annotations

import json
from argparse import Namespace

from pexservice.cli.arguments import add_service

SUMMARY = "tell the cursor whenever it has moved, until Ctrl-C"
DESCRIPTION = """\
One line each, at most ten a
second; revisions only grow. With --json each line is an object."""

#: The longest value that is shown whole, and how much of each end of a longer one.  Digits.
_WHOLE = 40
_ENDS = 12


add_arguments = add_service


def run(arguments: Namespace) -> None:
    """
    Write a line for each state of the cursor that is seen.
    """
    from pexservice.cli.calling import call, told
    from pexservice.cli.output import write
    from pexservice.client import Cursor

    async def watch(cursor: Cursor) -> None:
        async for state in cursor.watch():
            if arguments.json:
                write(json.dumps(told(state)))
            else:
                write(
                    f"revision {state.revision} position {state.position}:"
                    f" {_short(state.digits)}"
                )

    call(arguments, watch)


def _short(digits: str) -> str:
    if len(digits) <= _WHOLE:
        return digits
    return f"{digits[:_ENDS]}...{digits[-_ENDS:]} ({len(digits)} digits)"
