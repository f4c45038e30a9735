"""
Write the completions of C{pexctl} and C{pexservice} for shells, from their parsers.

C{python -m tests.support.completions} writes the files; a test compares them.
"""

from __future__ import annotations

from argparse import Action, ArgumentParser, _AppendAction, _SubParsersAction
from collections.abc import Iterable, Iterator
from pathlib import Path

from pexservice.cli.pexctl import PARSER
from pexservice.cli.twistd import ServiceOptions
from pexservice.cli.verb import VERBS

_PLACE = Path(__file__).parents[2] / "src" / "pexservice" / "cli" / "completions"
BASH = _PLACE / "bash" / "pexctl"
ZSH = _PLACE / "zsh" / "_pexctl"
SERVICE_BASH = _PLACE / "bash" / "pexservice"
SERVICE_ZSH = _PLACE / "zsh" / "_pexservice"

#: The names of option values that are files, and of those that are directories.
_FILES = {"FILE", "PEM"}
_DIRECTORIES = {"STORE", "TO", "DIRECTORY", "BACKUP"}


def _service() -> ArgumentParser:
    """
    Return a parser with the options that Twisted parses for C{pexservice}.
    """
    parser = ArgumentParser()
    parser.add_argument("--version", action="store_true")
    for option in ServiceOptions.declared():
        if option.is_flag:
            parser.add_argument(f"--{option.name}", action="store_true")
        else:
            action = "append" if option.repeatable else "store"
            parser.add_argument(f"--{option.name}", action=action, metavar=option.metavar)
    return parser


def _options(parser: ArgumentParser) -> list[Action]:
    return [action for action in parser._actions if action.option_strings]


def _name(option: Action) -> str:
    return option.option_strings[-1]


def _value(action: Action) -> str:
    """
    Return the word for the value of an argument; empty if it takes none.
    """
    return "" if action.nargs == 0 else str(action.metavar or action.dest.upper())


def _bash(program: str, options: Iterable[Action], words: Iterable[str]) -> Iterator[str]:
    """
    Yield the lines of the bash completion of C{program}.

    @param words: the lines that choose the words after anything but an option's value.
    """
    values = {_name(option): _value(option) for option in options if _value(option)}
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
    words = [
        "            case $COMP_CWORD:${COMP_WORDS[1]} in",
        f'                1:*) words="{" ".join(VERBS)} --help --version" ;;',
    ]
    for verb, parser in VERBS.items():
        line = " ".join(map(_name, _options(parser)))
        takes_directory = any(
            _value(action) in _DIRECTORIES and not action.option_strings
            for action in parser._actions
        )
        kind = " kind=-d" if takes_directory else ""
        words.append(f'                *:{verb}) words="{line}"{kind} ;;')
    words.append("            esac")
    options = [option for parser in VERBS.values() for option in _options(parser)]
    return _bash("pexctl", options, words)


def service_bash() -> Iterator[str]:
    options = _options(_service())
    words = f'            words="{" ".join(map(_name, options))}"'
    return _bash("pexservice", options, [words])


def _quoted(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''").replace("%%", "%")


def _zsh(action: Action, *, with_help: bool = True) -> str:
    """
    Return how zsh completes an argument.
    """
    value = _value(action)
    kind = "_files" if value in _FILES else "_files -/" if value in _DIRECTORIES else ""
    completed = f":{_quoted(value)}:{kind}" if value else ""
    if not action.option_strings:
        return f"'{':' if action.nargs == '?' else ''}{completed}'"
    # A repeatable option is offered again.
    again = "*" if isinstance(action, _AppendAction) else ""
    text = f"[{_quoted(action.help or '')}]" if with_help else ""
    return f"'{again}{_name(action)}{text}{completed}'"


def zsh() -> Iterator[str]:
    (verbs,) = (
        action for action in PARSER._actions if isinstance(action, _SubParsersAction)
    )
    yield "#compdef pexctl"
    yield "# Completion of pexctl for zsh, by python -m tests.support.completions."
    yield "local -a verbs=("
    for listed in verbs._choices_actions:
        yield f"    '{listed.dest}:{_quoted(listed.help or '')}'"
    yield ")"
    yield "if (( CURRENT == 2 )); then"
    yield "    _describe verb verbs"
    yield "    _arguments '--help[show help]' '--version[tell the version]'"
    yield "    return"
    yield "fi"
    yield "shift words; (( CURRENT-- ))"
    yield "case $words[1] in"
    for name, parser in VERBS.items():
        arguments = [*_options(parser), *parser._get_positional_actions()]
        yield f"    {name})"
        yield "        _arguments \\"
        yield " \\\n".join(f"            {_zsh(argument)}" for argument in arguments)
        yield "        ;;"
    yield "esac"


def service_zsh() -> Iterator[str]:
    yield "#compdef pexservice"
    yield "# Completion of pexservice for zsh, by python -m tests.support.completions."
    yield "_arguments \\"
    # The help is left out, because each option has several sentences.
    options = _options(_service())
    yield " \\\n".join(f"    {_zsh(option, with_help=False)}" for option in options)


#: The functions that yield the lines of a file, by its path.
FILES = {BASH: bash, ZSH: zsh, SERVICE_BASH: service_bash, SERVICE_ZSH: service_zsh}


def content(path: Path) -> str:
    return "\n".join([*FILES[path](), ""])


if __name__ == "__main__":
    for file in FILES:
        file.write_text(content(file))
