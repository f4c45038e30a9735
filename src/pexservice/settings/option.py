"""
One option of the command line: its form, its help and the attribute that it sets.

The parsers of numbers and words are here as well.  If a text is wrong, a parser raises
C{ValueError}, and the message says what the text must be.  C{pexctl} uses these parsers
too, and starts faster without Twisted, so this module does not import Twisted.

The classes of L{pexservice.settings.options} declare their attributes with L{Option.field}.
The parser, C{--help}, the man page, the worker's command line and the keys of the
configuration file are made from these declarations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import attrs

#: The groups of C{--help}, in their order.
GROUPS = (
    CONFIGURATION := "Configuration",
    LISTENING := "Listening",
    STORE := "Storage",
    ACCESS := "Requests",
    KEEP_ALIVE := "Availability",
    OUTPUT := "Logs",
)

_METADATA_KEY = "option"

#: The greatest number with 19 digits.
_MAX_NUMBER = 10**19 - 1


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("the value is empty")
    return text


@attrs.frozen
class Option:
    """
    The declaration of one option.

    @ivar metavar: the word for the option's value in C{--help}; empty for a flag.
    @ivar help: one or more sentences.
    @ivar group: one of L{GROUPS}.
    @ivar type: the type of one value in the configuration file: C{bool}, C{int},
        C{float} or C{str}.
    @ivar parse: converts the text on the command line to a value.  It raises C{ValueError}
        with a message that says what is wrong.
    @ivar repeatable: whether the attribute is a tuple of all values that were given.
    @ivar make_absolute: returns a value in which paths are absolute; its second argument is
        the directory at which a relative path begins.
    @ivar attribute: the attribute of the settings class; set by L{options_of}.
    @ivar default: the default of this attribute; set by L{options_of}.
    """

    metavar: str
    help: str
    group: str
    type: type = str
    parse: Callable[[str], Any] = _not_empty
    repeatable: bool = False
    make_absolute: Callable[[Any, Path], Any] = lambda value, _: value
    attribute: str = ""
    default: Any = None

    def field(self, default: Any) -> Any:
        """
        Declare an attribute of a settings class as this option.
        """
        return attrs.field(default=default, metadata={_METADATA_KEY: self})

    @property
    def name(self) -> str:
        """
        Return the option's name on the command line, without the dashes.
        """
        return self.attribute.replace("_", "-")

    @property
    def is_flag(self) -> bool:
        return not self.metavar

    def arguments(self, value: Any) -> Iterator[str]:
        """
        Yield the words of a command line that give C{value} to this option.
        """
        if self.repeatable:
            for element in value:
                yield from (f"--{self.name}", str(element))
        elif self.is_flag:
            if value:
                yield f"--{self.name}"
        elif self.type is bool:
            yield from (f"--{self.name}", "on" if value else "off")
        elif value is not None:
            yield from (f"--{self.name}", str(value))


def flag(text: str, group: str) -> Any:
    """
    Declare an attribute of a settings class as an option without a value.

    @param text: the help of the option.
    """
    return Option("", text, group, bool).field(default=False)


def options_of(*tables: type[attrs.AttrsInstance]) -> Iterator[Option]:
    """
    Yield the options that the classes C{tables} declare, in their order.
    """
    for table in tables:
        for attribute in attrs.fields(table):
            declared = attribute.metadata.get(_METADATA_KEY)
            if declared is not None:
                name, default = attribute.name, attribute.default
                yield attrs.evolve(declared, attribute=name, default=default)


def command_line(settings: attrs.AttrsInstance) -> Iterator[str]:
    """
    Yield the words of a command line that leads to the same C{settings}.
    """
    for option in options_of(type(settings)):
        yield from option.arguments(getattr(settings, option.attribute))


def did_you_mean(word: str, words: list[str], form: str = "{}") -> str:
    """
    Return the question whether the operator meant the most similar one of C{words}.

    @return: the end of a sentence; empty if no word is similar.
    """
    matches = get_close_matches(word, words, 1)
    return f" (did you mean {form.format(matches[0])}?)" if matches else ""


def number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """
    Make a parser of whole numbers from C{minimum} to C{maximum}.
    """
    if maximum is None:
        maximum, form = _MAX_NUMBER, f"{minimum} or more"
    elif maximum == minimum + 1:
        form = f"{minimum} or {maximum}"
    else:
        form = f"from {minimum} to {maximum}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,19}", text):
            raise ValueError(f"must be a number of at most 19 digits, {form}")
        if not minimum <= int(text) <= maximum:
            raise ValueError(f"must be {form}")
        return int(text)

    return parse


def seconds(minimum: float) -> Callable[[str], float]:
    """
    Make a parser of seconds: a number with at most three decimals, C{minimum} or more.
    """

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or float(text) < minimum:
            raise ValueError(f"must be {minimum} seconds or more, such as 2.5")
        return float(text)

    return parse


def on_or_off(text: str) -> bool:
    return one_of("on", "off")(text) == "on"


def one_of(*words: str) -> Callable[[str], str]:
    """
    Make a parser of one of C{words}.
    """

    def parse(text: str) -> str:
        if text not in words:
            hint = did_you_mean(text, list(words))
            raise ValueError(f"must be {' or '.join(words)}{hint}")
        return text

    return parse
