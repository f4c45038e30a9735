"""
The program C{pexctl}: an operator's commands for a service and its store.

C{python -m pexservice VERB} is the same program.

A result is a line on standard output, or an object with C{--json}.  A failure is also one
line on standard error.  L{VERBS} is the table of all verbs.  A verb imports its tools when
it runs, so that no verb pays for another.
"""

from __future__ import annotations

import json
import signal
import sys
import textwrap
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NoReturn

from attrs import frozen

from pexservice.cli.arguments import add_service
from pexservice.cli.output import Result, VerbFailed, give_up_output, write
from pexservice.cli.verbs import (
    advance,
    backup,
    calls,
    check,
    create,
    reload,
    restore,
    status,
    verify,
)
from pexservice.core.text import printable

_HELP_WIDTH = 80

#: The meaning of the exit statuses.
STATUSES = {
    0: "success",
    1: "not ready, refused, or failed",
    2: "the command line is wrong, or a file that it names",
    64: "an option or its file is wrong, or the store has another format",
    69: "no pexservice answered, and no step was sent",
    75: "a step may or may not have been made: repeat it with --key and its key",
    78: "the store is damaged",
    130: "Ctrl-C; 143: SIGTERM; 141: nothing reads the output",
}

#: The statuses of the verbs that call a service, that make steps, and that read a store.
_CALL = (0, 1, 2, 69, 130)
_STEP = (0, 1, 2, 69, 75, 130)
_STORE = (0, 1, 2, 64, 78, 130)


@frozen
class Verb:
    """
    A verb.

    @ivar summary: a clause, without a period.
    @ivar description: further sentences.
    @ivar examples: command lines.
    @ivar statuses: the exit statuses that the verb can have.
    @ivar run: runs the verb.  It returns its result, or C{None} if it has written its
        results itself, and raises L{VerbFailed}.
    """

    summary: str
    description: str
    examples: Sequence[str]
    statuses: Sequence[int]
    run: Callable[[Namespace], Result | None]
    add_arguments: Callable[[ArgumentParser], None] = lambda _: None


_ONCE = (
    "The step is repeated with the same key until the service answers or the deadline"
    " ends, and is made once."
)


def _help(arguments: Namespace) -> None:
    # argparse ends the process.
    make_parser().parse_args([*filter(None, [arguments.verb]), "--help"])


def _add_verb(parser: ArgumentParser) -> None:
    parser.add_argument("verb", metavar="VERB", nargs="?", help="the verb to explain")


def _version(_: Namespace) -> Result:
    from importlib.metadata import version  # noqa: PLC0415 a megabyte

    number = version("pexservice")
    return Result(f"pexctl {number}", {"version": number})


#: Every verb, by its name, in the order of the help.
VERBS: dict[str, Verb] = {
    "current": Verb(
        "print the value at the cursor",
        "The cursor does not move.",
        ["pexctl current", "pexctl current --url https://pex.example.org --json"],
        _CALL,
        calls.current,
        add_service,
    ),
    "next": Verb(
        "move to the next position and print its value",
        _ONCE,
        ["pexctl next", "pexctl next --if-revision 41 --json"],
        _STEP,
        calls.step("next"),
        calls.add_step_arguments,
    ),
    "previous": Verb(
        "move to the previous position, but not below 0, and print its value",
        _ONCE,
        ["pexctl previous"],
        _STEP,
        calls.step("previous"),
        calls.add_step_arguments,
    ),
    "reset": Verb(
        "move to position 0 and print its value",
        _ONCE,
        ["pexctl reset --if-revision 41"],
        _STEP,
        calls.step("reset"),
        calls.add_step_arguments,
    ),
    "history": Verb(
        "list the latest steps, newest first",
        "With --json each step is an object on its own line.",
        ["pexctl history --limit 3", "pexctl history --before 41"],
        _CALL,
        calls.history,
        calls.add_history_arguments,
    ),
    "watch": Verb(
        "print the cursor whenever it has moved, until Ctrl-C",
        "It prints at most ten lines per second, and revisions only grow. With --json each"
        " line is an object.",
        ["pexctl watch", "pexctl watch --json"],
        _CALL,
        calls.watch,
        add_service,
    ),
    "load": Verb(
        "make steps as fast as possible, and compare them with the history",
        "The steps are real: the cursor moves.",
        ["pexctl load --seconds 3 --connections 16"],
        _STEP,
        calls.load,
        calls.add_load_arguments,
    ),
    "status": Verb(
        "ask a running service whether it accepts steps",
        "",
        ["pexctl status", "pexctl status unix:/run/pexservice/http.sock"],
        _CALL,
        status.run,
        status.add_arguments,
    ),
    "check": Verb(
        "read options, files, addresses and store as a start would",
        "It changes nothing: it creates no store and keeps no address. Run it as the"
        " service's user, who may not read what you may. It lists what a running service"
        " uses, which is not an error.",
        ["pexctl check --config /etc/pexservice/pexservice.toml"],
        _STORE,
        check.run,
        check.add_arguments,
    ),
    "create": Verb(
        "create an empty store",
        "It refuses if there is a store. With no-create in the configuration file, a"
        " service opens only a store that was created so.",
        [
            "pexctl create --config /etc/pexservice/pexservice.toml",
            "pexctl create --store lmdb:/srv/pexservice",
        ],
        _STORE,
        create.run,
        create.add_arguments,
    ),
    "reload": Verb(
        "make a running service read its files again",
        "The service reads the configuration file, certificates and tokens again and"
        " replaces its workers, without a failed request. If something is wrong, the old"
        " workers keep running.",
        ["pexctl reload", "pexctl reload 4711 --accept token-file"],
        _CALL,
        reload.run,
        reload.add_arguments,
    ),
    "verify": Verb(
        "read and verify a whole store that no service uses",
        "It changes nothing.",
        ["pexctl verify pexservice-data"],
        _STORE,
        verify.run,
        verify.add_arguments,
    ),
    "backup": Verb(
        "copy a store, also while a service uses it",
        "The copy is one committed state, and it is verified. It is a store: start a"
        " service on it, or put it in the place of a lost one with pexctl restore.",
        [
            "pexctl backup pexservice-data monday",
            "pexctl backup pexservice-data /var/backups/pexservice --keep 7",
        ],
        _STORE,
        backup.run,
        backup.add_arguments,
    ),
    "restore": Verb(
        "put a backup in the place of a store that no service uses",
        "It verifies the copy and keeps the replaced directory under another name; at every"
        " moment one of the two is there. Without --beyond, revisions that clients saw"
        " after the backup are used again for other steps. --beyond names the highest of"
        " them: steps are then made until all are left behind, and the position stays.",
        ["pexctl restore monday --to pexservice-data --beyond 6391"],
        _STORE,
        restore.run,
        restore.add_arguments,
    ),
    "advance": Verb(
        "give the cursor of a restored etcd a higher revision",
        "The position stays. Stop all nodes first. Choose the highest revision that any"
        " client or log has seen, so that no revision ever means two states.",
        ["pexctl advance --store etcd:http://10.0.0.1:2379 6391"],
        _STORE,
        advance.run,
        advance.add_arguments,
    ),
    "help": Verb(
        "explain a verb, or list all", "", ["pexctl help next"], (0, 2), _help, _add_verb
    ),
    "version": Verb("print the version", "", ["pexctl version"], (0, 2), _version),
}


class _VersionOption(Action):
    """
    The option C{--version}: only it takes the time to read the version.
    """

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        write(_version(Namespace()).line)
        parser.exit()


def _epilogue(examples: Sequence[str], statuses: Sequence[int]) -> str:
    lines = []
    if examples:
        heading = "examples" if len(examples) > 1 else "example"
        lines += [f"{heading}:", *(f"  {example}" for example in examples), ""]
    lines += ["exit status:", *(f"  {code:<4} {STATUSES[code]}" for code in statuses)]
    return "\n".join([*lines, ""])


def make_parser() -> ArgumentParser:
    """
    Return the parser of the command line.
    """
    parser = ArgumentParser(
        prog="pexctl",
        description="Move the cursor of a pexservice; operate the service and its store.",
        epilog=_epilogue(
            ["pexctl next", "pexctl status", "pexctl help backup"], [*STATUSES]
        ),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action=_VersionOption, nargs=0, help="print the version and exit"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, verb in VERBS.items():
        summary = f"{verb.summary[0].upper()}{verb.summary[1:]}."
        command = commands.add_parser(
            name,
            help=verb.summary,
            description=textwrap.fill(f"{summary} {verb.description}", _HELP_WIDTH),
            epilog=_epilogue(verb.examples, verb.statuses),
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print objects")
        command.set_defaults(run=verb.run)
        verb.add_arguments(command)
    return parser


def _suggestion(word: str) -> str:
    similar = get_close_matches(word, [*VERBS, "twistd pexservice"], 1)
    return f" (did you mean {similar[0]}?)" if similar else "; see pexctl help"


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line C{argv}, or that of this process.

    @return: the exit status.
    """
    parser = make_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] not in VERBS and not words[0].startswith("-"):
        parser.error(f"there is no command {printable(words[0])}{_suggestion(words[0])}")
    arguments, others = parser.parse_known_args(words)
    if others and "options" not in arguments:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    arguments.options = others
    # SIGTERM raises SystemExit, so that a verb cleans up what it began.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result: Result | None = arguments.run(arguments)
        if result is not None:
            write(json.dumps(result.fields) if arguments.json else result.line)
    except VerbFailed as failure:
        if arguments.json:
            outcome = {"outcome": failure.outcome, "error": str(failure), **failure.fields}
            write(json.dumps(outcome))
        sys.stderr.write(f"pexctl: {failure}\n")
        return failure.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        give_up_output()
        return 128 + signal.SIGPIPE
    return 0


def _terminate(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
