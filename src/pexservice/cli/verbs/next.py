"""
C{pexctl next}: move to the next position.
"""

from __future__ import annotations

from argparse import Namespace

from pexservice.cli.outcome import Result
from pexservice.cli.stepping import DESCRIPTION, add_arguments, make_step

__all__ = ["DESCRIPTION", "SUMMARY", "add_arguments", "run"]

SUMMARY = "move to the next position and tell the value there"


def run(arguments: Namespace) -> Result:
    """
    Move the cursor to the next position.
    """
    return make_step(arguments, "next")
