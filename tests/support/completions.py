"""
Write the completions of C{pexctl} and C{pexservice} for shells, from their options.

C{python -m tests.support.completions} writes the files; a test compares them.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from pexservice.cli.pexctl import PARSER
from pexservice.cli.twistd import ServiceOptions

_PLACE = Path(__file__).parents[2] / "src" / "pexservice" / "cli" / "completions"
BASH = _PLACE / "bash" / "pexctl"
ZSH = _PLACE / "zsh" / "_pexctl"
SERVICE_BASH = _PLACE / "bash" / "pexservice"
SERVICE_ZSH = _PLACE / "zsh" / "_pexservice"

#: The names of option values that are files, and of those that are directories.
_FILES = {"FILE", "PEM"}
_DIRECTORIES = {"STORE", "TO", "DIRECTORY", "BACKUP"}


@frozen
class Verb:
    """
    A verb of C{pexctl} with its options.
    """

    name: str
    summary: str
    options: list[Action]
    positionals: list[Action]


def verbs(parser: ArgumentParser) -> list[Verb]:
    (commands,) = (
        action for action in parser._actions if isinstance(action, _SubParsersAction)
    )
    described = []
    for listed in commands._choices_actions:
        actions = [
            action
            for action in commands.choices[listed.dest]._actions
            if action.help is not SUPPRESS
        ]
        described.append(
            Verb(
                listed.dest,
                listed.help or "",
                [action for action in actions if action.option_strings],
                [action for action in actions if not action.option_strings],
            )
        )
    return described


def _long(option: Action) -> str:
    return option.option_strings[-1]


def _value(option: Action) -> str | None:
    """
    Return the name of the option's value, or C{None} if it takes none.
    """
    return None if option.nargs == 0 else str(option.metavar or option.dest.upper())


def bash() -> Iterator[str]:
    """
    Yield the lines of the bash completion of C{pexctl}.
    """
    known = verbs(PARSER)
    options = {_long(option): option for verb in known for option in verb.options}
    values = {name: _value(option) for name, option in options.items()}
    files = sorted(name for name, value in values.items() if value in _FILES)
    directories = sorted(name for name, value in values.items() if value in _DIRECTORIES)
    others = sorted(
        name
        for name, value in values.items()
        if value is not None and name not in {*files, *directories}
    )
    yield "# Completion of pexctl for bash, written by python -m tests.support.completions."
    yield "_pexctl() {"
    yield '    local word=${COMP_WORDS[COMP_CWORD]} words="" kind=""'
    yield "    case ${COMP_WORDS[COMP_CWORD - 1]} in"
    yield f"        {' | '.join(files)}) kind=-f ;;"
    if directories:
        yield f"        {' | '.join(directories)}) kind=-d ;;"
    yield f"        {' | '.join(others)}) return ;;"
    yield "        *)"
    yield "            case $COMP_CWORD:${COMP_WORDS[1]} in"
    names = " ".join(verb.name for verb in known)
    yield f'                1:*) words="{names} --help --version" ;;'
    for verb in known:
        line = " ".join(map(_long, verb.options))
        kind = (
            " kind=-d" if any(_value(p) in _DIRECTORIES for p in verb.positionals) else ""
        )
        yield f'                *:{verb.name}) words="{line}"{kind} ;;'
    yield "            esac"
    yield "            ;;"
    yield "    esac"
    yield "    [[ $word != -* ]] || kind="
    yield '    mapfile -t COMPREPLY < <(compgen $kind -W "$words" -- "$word")'
    yield "}"
    yield "complete -o filenames -F _pexctl pexctl"


def _quoted(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''").replace("%%", "%")


def _completed(value: str) -> str:
    if value in _FILES:
        return "_files"
    return "_files -/" if value in _DIRECTORIES else ""


def zsh() -> Iterator[str]:
    """
    Yield the lines of the zsh completion of C{pexctl}.
    """
    known = verbs(PARSER)
    yield "#compdef pexctl"
    yield "# Completion of pexctl for zsh, written by python -m tests.support.completions."
    yield "local -a verbs=("
    for verb in known:
        yield f"    '{verb.name}:{_quoted(verb.summary)}'"
    yield ")"
    yield "if (( CURRENT == 2 )); then"
    yield "    _describe verb verbs"
    yield "    _arguments '--help[show help]' '--version[tell the version]'"
    yield "    return"
    yield "fi"
    yield "shift words; (( CURRENT-- ))"
    yield "case $words[1] in"
    for verb in known:
        arguments = []
        for option in verb.options:
            value = _value(option)
            text = f"{_long(option)}[{_quoted(option.help or '')}]"
            # A repeatable option is offered again.
            again = "*" if type(option).__name__ == "_AppendAction" else ""
            tail = "" if value is None else f":{value}:{_completed(value)}"
            arguments.append(f"'{again}{text}{tail}'")
        for positional in verb.positionals:
            value = _value(positional) or ""
            optional = ":" if positional.nargs == "?" else ""
            arguments.append(f"'{optional}:{value}:{_completed(value)}'")
        yield f"    {verb.name})"
        yield "        _arguments \\"
        yield " \\\n".join(f"            {argument}" for argument in arguments)
        yield "        ;;"
    yield "esac"


def service_bash() -> Iterator[str]:
    """
    Yield the lines of the bash completion of C{pexservice}.
    """
    options = sorted(ServiceOptions.declared(), key=lambda option: option.name)
    files = [f"--{option.name}" for option in options if option.metavar in _FILES]
    others = [
        f"--{option.name}"
        for option in options
        if option.metavar and option.metavar not in _FILES
    ]
    words = " ".join([*(f"--{option.name}" for option in options), "--help", "--version"])
    yield "# Completion of pexservice for bash, by python -m tests.support.completions."
    yield "_pexservice() {"
    yield '    local word=${COMP_WORDS[COMP_CWORD]} words="" kind=""'
    yield "    case ${COMP_WORDS[COMP_CWORD - 1]} in"
    yield f"        {' | '.join(files)}) kind=-f ;;"
    yield f"        {' | '.join(others)}) return ;;"
    yield f'        *) words="{words}" ;;'
    yield "    esac"
    yield '    mapfile -t COMPREPLY < <(compgen $kind -W "$words" -- "$word")'
    yield "}"
    yield "complete -o filenames -F _pexservice pexservice"


def service_zsh() -> Iterator[str]:
    """
    Yield the lines of the zsh completion of C{pexservice}.
    """
    yield "#compdef pexservice"
    yield "# Completion of pexservice for zsh, by python -m tests.support.completions."
    yield "_arguments \\"
    for option in sorted(ServiceOptions.declared(), key=lambda option: option.name):
        again = "*" if option.repeatable else ""
        tail = (
            f":{_quoted(option.metavar)}:{_completed(option.metavar)}"
            if option.metavar
            else ""
        )
        yield f"    '{again}--{option.name}{tail}' \\"
    yield "    '--help' '--version'"


def main() -> None:
    for path, lines in (
        (BASH, bash()),
        (ZSH, zsh()),
        (SERVICE_BASH, service_bash()),
        (SERVICE_ZSH, service_zsh()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
