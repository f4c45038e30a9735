"""
The declaration of a verb of C{pexctl}: a decorator for the function that runs the verb.

The docstring of this function is the help of the verb, and its first line is the summary.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pexservice.cli.output import WRONG_ARGUMENTS, Result, VerbFailed
from pexservice.core.base_url import BASE_URL_FORMS, DEFAULT_BASE_URL, BaseURL
from pexservice.core.text import without_password
from pexservice.settings.option import seconds

_HELP_WIDTH = 80

#: The meaning of the exit statuses.
STATUSES = {
    0: "success",
    1: "not ready, refused, or failed",
    2: "the command line is wrong, or a file that it names",
    64: "an option or its file is wrong, or the store has another format",
    69: "no pexservice answered, or it refused for now, and no step was made",
    75: "it is unknown whether the step was made: repeat it with --key and its key",
    78: "the store is damaged",
    130: "Ctrl-C; 143: SIGTERM; 129: SIGHUP; 141: nothing reads the output",
}

#: The exit statuses of three groups of verbs: those that call a service, those that make
#: steps, and those that use a store.
CALL_STATUSES = (0, 1, 2, 69, 130)
STEP_STATUSES = (0, 1, 2, 69, 75, 130)
STORE_STATUSES = (0, 1, 2, 64, 78, 130)

#: What a verb yields: one result, or several.
Results = Generator[Result]

#: A function that runs a verb.
Run = TypeVar("Run", bound=Callable[[Namespace], Results])

#: Adds an argument to the parser of a verb.
Argument = Callable[[ArgumentParser], object]


def argument(
    name: str,
    metavar: str,
    help_text: str,
    parse: Callable[[str], object] = str,
    default: object = None,
    **options: Any,
) -> Argument:
    """
    Declare an argument of a verb.

    @param parse: converts the text to a value, or raises C{ValueError} with a message that
        says what is wrong.
    @param options: further arguments for C{add_argument} of C{argparse}.
    """

    def parse_argument(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            message = without_password(f"{text}: {error}")
            raise ArgumentTypeError(message) from error

    help_text = f"{help_text} [default: {default}]" if default else help_text
    options = {"metavar": metavar, "help": help_text, "default": default, **options}
    return lambda parser: parser.add_argument(name, type=parse_argument, **options)


def _epilogue(examples: Sequence[str], statuses: Iterable[int]) -> str:
    heading = "examples" if len(examples) > 1 else "example"
    lines = [f"{heading}:", *(f"  {example}" for example in examples), "", "exit status:"]
    lines += [f"  {status:<4} {STATUSES[status]}" for status in statuses]
    return "\n".join([*lines, ""])


#: The parser of the command line of C{pexctl}.
PARSER = ArgumentParser(
    prog="pexctl",
    description="Move the cursor of a pexservice; operate the service and its store.",
    epilog=_epilogue(["pexctl next", "pexctl status", "pexctl help backup"], STATUSES),
    formatter_class=RawDescriptionHelpFormatter,
    allow_abbrev=False,
)
PARSER.add_argument("--version", action="store_true", help="print the version and exit")

_VERBS = PARSER.add_subparsers(required=True, metavar="COMMAND")

#: The parser of each verb, by its name, in the order of the help.
VERBS = _VERBS.choices


def verb(
    name: str,
    statuses: Sequence[int],
    arguments: Sequence[Argument],
    *examples: str,
    usage: str | None = None,
) -> Callable[[Run], Run]:
    """
    Return a decorator that makes a function a verb.

    @param statuses: the exit statuses that the verb can have.
    @param examples: command lines for the help.
    @param usage: only for a verb that takes the service's options: the usage in the help.
    """

    def add(run: Run) -> Run:
        text = inspect.cleandoc(run.__doc__ or "")
        summary, _, _ = text.partition("\n")
        command = _VERBS.add_parser(
            name,
            help=summary[:1].lower() + summary[1:].removesuffix("."),
            description=textwrap.fill(" ".join(text.split()), _HELP_WIDTH),
            epilog=_epilogue(examples, statuses),
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument("--json", action="store_true", help="print JSON objects")
        command.set_defaults(run=run, parser=command)
        if usage is not None:
            command.usage = f"{command.prog} [-h] [--json] {usage}"
            # main() in pexctl.py puts the options of the service here.
            command.set_defaults(options=[])
        for add_to in arguments:
            add_to(command)
        return run

    return add


def base_url(text: str) -> BaseURL:
    """
    Parse a base URL.  If it has no scheme, it is an C{http} URL.
    """
    if text.isdecimal():
        raise ValueError(f"there is no host; use localhost:{text}")
    has_scheme = text.startswith(("http:", "https:", "http+unix:", "unix:"))
    if not has_scheme and "://" not in text:
        text = f"http://{text}"
    return BaseURL.parse(text)


#: The parser of a number of seconds.
duration = seconds(0.001)

#: Arguments for three groups of verbs: those that call one server; those that call nodes in
#: turn, perhaps with a token; and those that also have a deadline.
SERVER = (
    argument(
        "--url",
        "URL",
        f"{BASE_URL_FORMS.replace('%', '%%')}; if it is repeated, calls try"
        f" these nodes in turn [default: PEXSERVICE_URL, or {DEFAULT_BASE_URL}]",
        base_url,
        action="append",
    ),
    argument("--ca-file", "PEM", "a file of authorities to trust instead of the system's"),
)
NODES = (
    *SERVER,
    argument(
        "--token-file",
        "FILE",
        "send the first token in this file [default: PEXSERVICE_TOKEN, or none]",
    ),
)
SERVICE = (
    *NODES,
    argument(
        "--deadline", "SECONDS", "how long a call may take with all attempts", duration, 30
    ),
)


def urls_of(arguments: Namespace) -> list[BaseURL]:
    """
    Return the base URLs in C{--url}, or else in C{PEXSERVICE_URL}, or else the default.

    @raise VerbFailed: C{PEXSERVICE_URL} is not a list of base URLs.
    """
    if arguments.url:
        return list(arguments.url)
    variable = os.environ.get("PEXSERVICE_URL", "")
    try:
        return [base_url(text) for text in variable.split() or [DEFAULT_BASE_URL]]
    except ValueError as error:
        reason = str(error)
        if "@" in variable:
            # Otherwise the reason could show a part of a password that has a blank.
            reason = f"a base URL has no user and no password; use {BASE_URL_FORMS}"
        message = f"PEXSERVICE_URL: {reason}"
        raise VerbFailed(message, exit_status=WRONG_ARGUMENTS) from error


def token_of(arguments: Namespace) -> str | None:
    """
    Return the token in C{--token-file}, or else in C{PEXSERVICE_TOKEN}, or else C{None}.

    @raise VerbFailed: the token file cannot be read, or contains no token.
    """
    name: str | None = arguments.token_file
    if name is None:
        return os.environ.get("PEXSERVICE_TOKEN") or None
    problem = "the file contains no token"
    try:
        for line in Path(name).read_text("ascii").splitlines():
            if line.strip() and not line.startswith("#"):
                return line.strip()
    except UnicodeDecodeError:
        problem = "the file is not plain ASCII"
    except OSError as error:
        problem = error.strerror or str(error)
    raise VerbFailed(f"--token-file {name}: {problem}", exit_status=WRONG_ARGUMENTS)
