"""
The program C{pexctl}: an operator's commands for a service and its store.

C{python -m pexservice VERB} is the same program.

A result is a line on standard output, or a JSON object with C{--json}.  A failure is a line
on standard error.  With C{--json}, a failure is also an object on standard output.

The modules of L{pexservice.cli.verbs} declare the verbs.  A verb imports other modules only
when it runs, so that no verb waits for the imports of another.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing, suppress

from pexservice.cli.output import (
    Result,
    VerbFailed,
    discard_output,
    failure_of,
    open_closed_streams,
    write,
    write_error,
)
from pexservice.cli.verb import PARSER, VERBS, Results, argument, verb
from pexservice.cli.verbs import calls, check, reload, status, stores  # noqa: F401 verbs
from pexservice.core.text import printable
from pexservice.settings.option import did_you_mean

__all__ = ["PARSER", "main"]

#: Options of other programs, each with the option of C{pexctl} that the user looks for.
_ADDRESS_OPTIONS = dict.fromkeys(("--address", "--host", "--port", "-p"), "--url")


@verb(
    "help",
    (0, 2),
    [argument("verb", "VERB", "the verb to explain", str, nargs="?")],
    "pexctl help next",
)
def _help(arguments: Namespace) -> Results:
    """
    Explain a verb, or list all.
    """
    if arguments.verb:
        _require_verb(arguments.verb)
    text = VERBS.get(arguments.verb, PARSER).format_help().rstrip("\n")
    yield Result(text, {"help": text})


@verb("version", (0, 2), (), "pexctl version")
def _version(_: Namespace) -> Results:
    """
    Print the version.
    """
    from importlib.metadata import version  # noqa: PLC0415 a megabyte

    number = version("pexservice")
    yield Result(f"pexctl {number}", {"version": number})


def _require_verb(name: str) -> None:
    """
    End the process with an error if there is no verb C{name}.
    """
    if name not in VERBS:
        hint = _hint(name, [*VERBS, "twistd pexservice"], "")
        PARSER.error(f"there is no command {printable(name)}{hint}")


def _hint(word: str, words: list[str], verb_name: str) -> str:
    return did_you_mean(word, words) or f"; see pexctl help {verb_name}".rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a verb, and return the exit status.

    @param argv: the arguments; by default, those of this process.
    """
    open_closed_streams()
    command_line = list(sys.argv[1:] if argv is None else argv)
    if command_line[:1] == ["--version"]:
        command_line[0] = "version"
    name = command_line[0] if command_line else "-"
    if not name.startswith("-"):
        _require_verb(name)
    arguments, unknown_arguments = PARSER.parse_known_args(command_line)
    # A verb with the attribute C{options} passes unknown arguments to the service's parser.
    if unknown_arguments and "options" not in arguments:
        wrong = unknown_arguments[0].partition("=")[0]
        options = re.findall(r"--[a-z-]+", arguments.parser.format_usage())
        hint = _hint(_ADDRESS_OPTIONS.get(wrong, wrong), options, name)
        arguments.parser.error(f"there is no argument {printable(wrong)}{hint}")
    arguments.options = unknown_arguments
    # SIGTERM and the end of a terminal raise SystemExit, so that a verb cleans up what it
    # began, and a step names its key.  A program that nohup starts ignores SIGHUP.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(128 + signal.SIGHUP))
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        discard_output(sys.stdout)
        return 128 + signal.SIGPIPE


def _run(arguments: Namespace) -> int:
    """
    Run the verb, print its results or its failure, and return the exit status.
    """
    try:
        # If the output fails, closing() ends the verb, which closes its connections.
        with closing(arguments.run(arguments)) as results:
            for result in results:
                write(json.dumps(result.fields) if arguments.json else result.line)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 failure_of raises bugs again
        failure = failure_of(error)
    else:
        return 0
    write_error(str(failure))
    if arguments.json:
        outcome = {"outcome": failure.outcome, "error": str(failure), **failure.fields}
        # If standard output cannot be written, standard error still has the failure.
        with suppress(VerbFailed):
            write(json.dumps(outcome))
    return failure.exit_status


if __name__ == "__main__":
    sys.exit(main())
