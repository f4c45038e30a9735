"""
C{pexctl next}, C{pexctl previous} and C{pexctl reset}: make a step.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_service, number
from pexservice.cli.outcome import Result


class Step:
    """
    A verb that makes a step.
    """

    DESCRIPTION = """\
It is sent again, with the same
key, until it is answered or the deadline is over; it is made once."""

    def __init__(self, word: str, summary: str) -> None:
        """
        Make the verb of the step that C{word} names.
        """
        self._word = word
        self.SUMMARY = summary

    def add_arguments(self, parser: ArgumentParser) -> None:
        """
        Add the arguments for the service, and for the step.
        """
        add_service(parser)
        parser.add_argument(
            "--if-revision",
            metavar="N",
            type=number(0),
            help="only if the cursor is at this revision",
        )
        parser.add_argument(
            "--key",
            metavar="KEY",
            help="the key of a step whose outcome is unknown [default: a new one]",
        )

    def run(self, arguments: Namespace) -> Result:
        """
        Make the step.
        """
        from pexservice.cli.calling import call, told

        state = call(
            arguments,
            lambda cursor: getattr(cursor, self._word)(
                if_revision=arguments.if_revision, key=arguments.key
            ),
        )
        return Result(
            state.digits, {"outcome": "moved", **told(state), "replayed": state.replayed}
        )
