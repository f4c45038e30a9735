"""
Write the completions of C{pexctl} and C{pexservice} for shells, from their options.

C{python -m tests.support.completions} writes the files; a test compares them.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterable, Iterator
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
class Flag:
    """
    An option of a command.

    @ivar name: the name with its dashes.
    @ivar value: the word for the option's value; empty if the option takes none.
    """

    name: str
    value: str
    help: str
    repeatable: bool


@frozen
class Verb:
    """
    A verb of C{pexctl} with its options.
    """

    name: str
    summary: str
    options: list[Flag]
    positionals: list[Action]


def verbs(parser: ArgumentParser) -> Iterator[Verb]:
    (commands,) = (
        action for action in parser._actions if isinstance(action, _SubParsersAction)
    )
    for listed in commands._choices_actions:
        actions = [
            action
            for action in commands.choices[listed.dest]._actions
            if action.help is not SUPPRESS
        ]
        options = [_flag(action) for action in actions if action.option_strings]
        positionals = [action for action in actions if not action.option_strings]
        yield Verb(listed.dest, listed.help or "", options, positionals)


def _flag(action: Action) -> Flag:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    is_repeatable = type(action).__name__ == "_AppendAction"
    return Flag(action.option_strings[-1], value, action.help or "", is_repeatable)


def service_options() -> list[Flag]:
    # The help is left out, because each option has several sentences.
    return [
        Flag(f"--{option.name}", option.metavar, "", option.repeatable)
        for option in sorted(ServiceOptions.declared(), key=lambda option: option.name)
    ]


def _bash(program: str, options: Iterable[Flag], words: Iterable[str]) -> Iterator[str]:
    """
    Yield the lines of the bash completion of C{program}.

    @param words: the lines that choose the words after anything but an option's value.
    """
    values = {option.name: option.value for option in options if option.value}
    yield f"# Completion of {program} for bash, by python -m tests.support.completions."
    yield f"_{program}() {{"
    yield '    local word=${COMP_WORDS[COMP_CWORD]} words="" kind=""'
    yield "    case ${COMP_WORDS[COMP_CWORD - 1]} in"
    for kinds, action in ((_FILES, "kind=-f"), (_DIRECTORIES, "kind=-d")):
        names = sorted(name for name, value in values.items() if value in kinds)
        if names:
            yield f"        {' | '.join(names)}) {action} ;;"
    others = sorted(
        name for name, value in values.items() if value not in _FILES | _DIRECTORIES
    )
    yield f"        {' | '.join(others)}) return ;;"
    yield "        *)"
    yield from words
    yield "            ;;"
    yield "    esac"
    yield "    [[ $word != -* ]] || kind="
    yield '    mapfile -t COMPREPLY < <(compgen $kind -W "$words" -- "$word")'
    yield "}"
    yield f"complete -o filenames -F _{program} {program}"


def bash() -> Iterator[str]:
    known = [*verbs(PARSER)]
    names = " ".join(verb.name for verb in known)
    words = [
        "            case $COMP_CWORD:${COMP_WORDS[1]} in",
        f'                1:*) words="{names} --help --version" ;;',
    ]
    for verb in known:
        line = " ".join(option.name for option in verb.options)
        takes_directory = any(str(p.metavar) in _DIRECTORIES for p in verb.positionals)
        kind = " kind=-d" if takes_directory else ""
        words.append(f'                *:{verb.name}) words="{line}"{kind} ;;')
    words.append("            esac")
    return _bash("pexctl", [option for verb in known for option in verb.options], words)


def service_bash() -> Iterator[str]:
    options = service_options()
    names = " ".join(option.name for option in options)
    words = f'            words="{names} --help --version"'
    return _bash("pexservice", options, [words])


def _quoted(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''").replace("%%", "%")


def _value(value: str) -> str:
    """
    Return how zsh completes a value with this name.
    """
    completed = (
        "_files" if value in _FILES else "_files -/" if value in _DIRECTORIES else ""
    )
    return f":{_quoted(value)}:{completed}"


def _option(option: Flag) -> str:
    # A repeatable option is offered again.
    again = "*" if option.repeatable else ""
    text = f"[{_quoted(option.help)}]" if option.help else ""
    value = _value(option.value) if option.value else ""
    return f"'{again}{option.name}{text}{value}'"


def zsh() -> Iterator[str]:
    known = [*verbs(PARSER)]
    yield "#compdef pexctl"
    yield "# Completion of pexctl for zsh, by python -m tests.support.completions."
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
        arguments = [_option(option) for option in verb.options]
        for positional in verb.positionals:
            optional = ":" if positional.nargs == "?" else ""
            value = _value(str(positional.metavar or positional.dest.upper()))
            arguments.append(f"'{optional}{value}'")
        yield f"    {verb.name})"
        yield "        _arguments \\"
        yield " \\\n".join(f"            {argument}" for argument in arguments)
        yield "        ;;"
    yield "esac"


def service_zsh() -> Iterator[str]:
    yield "#compdef pexservice"
    yield "# Completion of pexservice for zsh, by python -m tests.support.completions."
    yield "_arguments \\"
    for option in service_options():
        yield f"    {_option(option)} \\"
    yield "    '--help' '--version'"


#: The functions that yield the lines of a file, by its path.
FILES = {BASH: bash, ZSH: zsh, SERVICE_BASH: service_bash, SERVICE_ZSH: service_zsh}


def content(path: Path) -> str:
    return "\n".join([*FILES[path](), ""])


def main() -> None:
    for path in FILES:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content(path))


if __name__ == "__main__":
    main()
