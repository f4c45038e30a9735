"""
C{pexctl}, and C{python -m pexservice VERB}: what an operator asks of a service and its
store.

A result is a line, or with C{--json} an object, on standard output; what is wrong is a
line on standard error too.  Exit statuses are those of L{EPILOGUE}.  To add a verb, write
its module in L{pexservice.cli.verbs} and name it in L{VERBS}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn, Protocol

from pexservice.cli.outcome import Result, VerbFailed
from pexservice.cli.verbs import backup, reload, status, verify


class Verb(Protocol):
    """
    A module in L{pexservice.cli.verbs}.
    """

    SUMMARY: str
    DESCRIPTION: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """
        Add the arguments of this verb.
        """

    def run(self, arguments: Namespace) -> Result | None:
        """
        Do it.

        @return: the result, or C{None} from a verb that has written what there is to say.
        @raise VerbFailed: it could not be done.
        """


#: Every verb, by its name, in the order of the help.
VERBS: dict[str, Verb] = {
    "status": status,
    "reload": reload,
    "verify": verify,
    "backup": backup,
}

EPILOGUE = """\
exit status:
  0   it is well: ready, reloaded, whole, backed up
  1   it is not ready, or it could not be done
  2   the command line is wrong
  64  the store has another format
  69  nobody answers as a pexservice does
  78  the store is damaged
"""


def make_parser() -> ArgumentParser:
    """
    Return the parser of the command line.
    """
    parser = ArgumentParser(
        prog="pexctl",
        description="Look after a pexservice and its store.",
        epilog=EPILOGUE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, verb in VERBS.items():
        summary = verb.SUMMARY
        made = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {verb.DESCRIPTION}".strip(),
            epilog=EPILOGUE,
            formatter_class=RawDescriptionHelpFormatter,
        )
        made.add_argument("--json", action="store_true", help="answer an object")
        made.set_defaults(run=verb.run)
        verb.add_arguments(made)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    @return: the exit status.
    """
    arguments = make_parser().parse_args(argv)
    # So that what was begun is cleaned up.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        result: Result | None = arguments.run(arguments)
        if result is not None:
            _write(json.dumps(result.found) if arguments.json else result.line)
    except VerbFailed as failed:
        if arguments.json:
            _write(json.dumps({"outcome": failed.outcome, "error": str(failed)}))
        sys.stderr.write(f"pexctl: {failed}\n")
        return failed.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads the rest; the interpreter would try to write it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    # Here rather than at the end, where it could not be told that nobody reads it.
    sys.stdout.flush()


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
