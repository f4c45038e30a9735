"""
C{pexctl reset}: move to position 0.
"""

from __future__ import annotations

from argparse import Namespace

from pexservice.cli.outcome import Result
from pexservice.cli.stepping import DESCRIPTION, add_arguments, make_step

__all__ = ["DESCRIPTION", "SUMMARY", "add_arguments", "run"]

SUMMARY = "move to position 0 and tell the value there"


def run(arguments: Namespace) -> Result:
    """
    Move the cursor to position 0.
    """
    return make_step(arguments, "reset")
