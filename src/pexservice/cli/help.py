"""
The text of C{--help}, with the options in groups.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, HelpFormatter
from collections.abc import Sequence
from functools import partial

from pexservice.settings.option import GROUPS, Option

#: In characters: where the descriptions begin, and where a line ends at the latest.
_INDENT = 26
_WIDTH = 80


def grouped(description: str, options: Sequence[Option]) -> str:
    """
    Return the help text that follows the synopsis.
    """
    # Twisted parses the options, and this parser only formats the help.  So an option may
    # have a name such as "--listen ENDPOINT", which includes the word for the value.
    writer = ArgumentParser(
        usage=SUPPRESS,
        description=description,
        add_help=False,
        formatter_class=partial(HelpFormatter, width=_WIDTH, max_help_position=_INDENT),
    )
    for group in GROUPS:
        section = writer.add_argument_group(group)
        for option in options:
            if option.group == group:
                name = f"--{option.name} {option.metavar}".rstrip()
                section.add_argument(name, action="store_true", help=help_of(option))
    section = writer.add_argument_group("Help")
    section.add_argument("--help", action="help", help="Display this help and exit.")
    section.add_argument(
        "--version", action="version", help="Display the version and exit."
    )
    return f"\n{writer.format_help()}"


def help_of(option: Option) -> str:
    """
    Return the help of C{option}, with its default value if it has one.
    """
    values = [
        text for text in option.arguments(option.default) if text != f"--{option.name}"
    ]
    return option.help + (f" [default: {' '.join(values)}]" if values else "")
