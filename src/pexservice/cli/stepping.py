"""
The common part of the verbs that make a step.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pexservice.cli.arguments import add_service, whole
from pexservice.cli.outcome import Result

#: The description of each of these verbs.
DESCRIPTION = """\
It is sent again, with the same
key, until it is answered or the deadline is over; it is made once."""


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the arguments of a verb that makes a step.
    """
    add_service(parser)
    parser.add_argument(
        "--if-revision",
        metavar="N",
        type=whole,
        help="only if the cursor is at this revision",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="the key of a step whose outcome is unknown [default: a new one]",
    )


def make_step(arguments: Namespace, word: str) -> Result:
    """
    Make the step that C{word} names.
    """
    # Imported here, so that the verbs that call no service do not load treq.
    from pexservice.cli.calling import call, told  # noqa: PLC0415 treq, for these verbs alone

    state = call(
        arguments,
        lambda cursor: getattr(cursor, word)(
            if_revision=arguments.if_revision, key=arguments.key
        ),
    )
    return Result(
        state.digits, {"outcome": "moved", **told(state), "replayed": state.replayed}
    )
