"""
An operator's commands for a service and its store: the program C{pexctl}.

C{python -m pexservice VERB} is the same program.

A result is a line, or with C{--json} an object, on standard output; a failure is a line on
standard error too.  Exit statuses are those of L{EPILOGUE}.  To add a verb, write its
module in L{pexservice.cli.verbs} and name it in L{VERBS}.
"""

from __future__ import annotations

import json
import signal
import sys
import textwrap
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn, Protocol

from pexservice.cli.outcome import Result, VerbFailed
from pexservice.cli.output import give_up_output, write
from pexservice.cli.verbs import (
    backup,
    check,
    current,
    history,
    load,
    reload,
    restore,
    status,
    verify,
    watch,
)
from pexservice.cli.verbs.step import Step


class Verb(Protocol):
    """
    A verb: a module in L{pexservice.cli.verbs}, or one of its L{Step}s.
    """

    SUMMARY: str
    DESCRIPTION: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """
        Add the arguments of this verb.
        """

    def run(self, arguments: Namespace) -> Result | None:
        """
        Run this verb.

        @return: the result, or C{None} from a verb that has written its results itself.
        @raise VerbFailed: the verb could not do its work.
        """


#: Every verb, by its name, in the order of the help.
VERBS: dict[str, Verb] = {
    "current": current,
    "next": Step("next", "move to the next position and tell the value there"),
    "previous": Step(
        "previous", "move to the position before, not below 0, and tell the value there"
    ),
    "reset": Step("reset", "move to position 0 and tell the value there"),
    "history": history,
    "watch": watch,
    "load": load,
    "status": status,
    "check": check,
    "reload": reload,
    "verify": verify,
    "backup": backup,
    "restore": restore,
}

#: The width of the help.  Characters.
_WIDTH = 80

EPILOGUE = """\
exit status:
  0    it is well: done, ready, reloaded, whole, backed up, restored
  1    it is not ready, was refused, or could not be done
  2    the command line is wrong, or a file that it names
  64   an option or a file it names is wrong, or the store has another format
  69   nobody answers as a pexservice does
  75   a step may have been made or not: repeat it with the key that is told
  78   the store is damaged
  130  Ctrl-C ended it; 143: SIGTERM did; 141: nobody reads what it writes
"""


class _Version(Action):
    """
    The option C{--version}, which alone takes the time to find the version out.
    """

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 a megabyte

        write(f"pexctl {version('pexservice')}")
        parser.exit()


def make_parser() -> ArgumentParser:
    """
    Return the parser of the command line.
    """
    parser = ArgumentParser(
        prog="pexctl",
        description="Move the cursor of a pexservice; look after it and its store.",
        epilog=EPILOGUE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="tell the version and exit"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, verb in VERBS.items():
        summary = verb.SUMMARY
        made = commands.add_parser(
            name,
            help=summary,
            description=textwrap.fill(
                f"{summary[0].upper()}{summary[1:]}. {verb.DESCRIPTION}", _WIDTH
            ),
            epilog=EPILOGUE,
            formatter_class=RawDescriptionHelpFormatter,
        )
        made.add_argument("--json", action="store_true", help="answer an object")
        made.set_defaults(run=verb.run)
        verb.add_arguments(made)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line C{argv}, or that of this process.

    @return: the exit status.
    """
    parser = make_parser()
    arguments, others = parser.parse_known_args(argv)
    if others and "options" not in arguments:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    arguments.options = others
    # SIGTERM raises SystemExit, so that a verb cleans up the work that it began.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        result: Result | None = arguments.run(arguments)
        if result is not None:
            write(json.dumps(result.found) if arguments.json else result.line)
    except VerbFailed as failed:
        if arguments.json:
            told = {"outcome": failed.outcome, "error": str(failed), **failed.found}
            write(json.dumps(told))
        sys.stderr.write(f"pexctl: {failed}\n")
        return failed.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        give_up_output()
        return 128 + signal.SIGPIPE
    return 0


def _terminated(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
