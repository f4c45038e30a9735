"""
C{pexctl reset}: make a step.
"""

from __future__ import annotations

from argparse import Namespace

from pexservice.cli.outcome import Result
from pexservice.cli.stepping import DESCRIPTION, add_arguments, make_step

__all__ = ["DESCRIPTION", "SUMMARY", "add_arguments", "run"]

SUMMARY = "move to position 0 and tell the value there"


def run(arguments: Namespace) -> Result:
    """
    See L{pexservice.cli.pexctl.Verb}.
    """
    return make_step(arguments, "reset")
