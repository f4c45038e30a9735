"""
The parser of a service's options, and its C{--help}, with the options in groups.
"""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, HelpFormatter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from pexservice.core.text import without_password
from pexservice.settings.option import GROUPS, Option

#: In characters: where the descriptions begin, and where a line ends at the latest.
_INDENT = 26
_WIDTH = 80


class OptionsParser(ArgumentParser):
    """
    A parser that returns only the given values, and raises C{ValueError} for a wrong one.
    """

    def __init__(self, description: str, options: Sequence[Option]) -> None:
        super().__init__(
            usage=SUPPRESS,
            description=description,
            add_help=False,
            argument_default=SUPPRESS,
            formatter_class=partial(HelpFormatter, width=_WIDTH, max_help_position=_INDENT),
        )
        for group in GROUPS:
            section = self.add_argument_group(group)
            for option in options:
                add = partial(
                    section.add_argument, f"--{option.name}", help=help_of(option)
                )
                if option.group == group and option.is_flag:
                    add(action="store_true")
                elif option.group == group:
                    action = "append" if option.repeatable else "store"
                    parse = argument_type(option.parse)
                    add(action=action, metavar=option.metavar, type=parse)
        section = self.add_argument_group("Help")
        flag = partial(section.add_argument, action="store_true")
        flag("--help", help="Display this help and exit.")
        flag("--version", help="Display the version and exit.")

    def error(self, message: str) -> NoReturn:
        # The message of argparse begins with "argument --journal:".
        raise ValueError(re.sub(r"^argument (\S+):", r"\1", message))


def argument_type(parse: Callable[[str], object]) -> Callable[[str], object]:
    """
    Return a function for C{argparse} that parses a value, and masks passwords in errors.

    @param parse: raises C{ValueError} with a message that says what is wrong.
    """

    def parse_argument(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            message = without_password(f"{text}: {error}")
            raise ArgumentTypeError(message) from error

    return parse_argument


def help_of(option: Option) -> str:
    """
    Return the help of C{option}, with its default value if it has one.
    """
    values = [
        text for text in option.arguments(option.default) if text != f"--{option.name}"
    ]
    return option.help + (f" [default: {' '.join(values)}]" if values else "")
