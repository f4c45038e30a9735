"""
The configuration file: TOML, with the names of the options as keys.

The value of an on/off option or of a flag is a boolean, and that of a repeatable option is
a list.  A relative path begins at the directory of the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pexservice.core.text import read_small_file
from pexservice.settings.option import Option, did_you_mean

_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string in quotes",
}


def read_config(path: str, options: Iterable[Option]) -> dict[str, Any]:
    """
    Read the configuration file at C{path}.

    @return: the values that the file has, by the names of their options.
    @raise ValueError: the file is wrong.  The message is one line that names the file, and
        the key that is wrong.
    """
    known = {option.name: option for option in options}
    try:
        table = tomllib.loads(read_small_file(path).decode())
    except OSError as error:
        raise ValueError(f"the configuration file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"the configuration file {path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the configuration file {path}: {error}") from error
    values = {}
    for key, value in table.items():
        if key not in known:
            hint = did_you_mean(key.replace("_", "-"), list(known))
            raise ValueError(f"the configuration file {path}: there is no {key}{hint}")
        try:
            values[key] = _value(known[key], value, Path(path).absolute().parent)
        except ValueError as error:
            raise ValueError(f"the configuration file {path}: {key}: {error}") from None
    return values


def _value(option: Option, value: object, directory: Path) -> Any:
    if not option.repeatable:
        return _single_value(option, value, directory)
    if not isinstance(value, list):
        raise ValueError("must be a list")  # noqa: TRY004 one kind of error for all
    return tuple(_single_value(option, element, directory) for element in value)


def _single_value(option: Option, value: object, directory: Path) -> Any:
    # An option with a float also accepts a whole number.  A bool is an int in Python, but
    # not in TOML.
    types = (int, float) if option.type is float else option.type
    if not isinstance(value, types) or isinstance(value, bool) is not (option.type is bool):
        raise ValueError(f"must be {_TYPE_NAMES[option.type]}")
    if isinstance(value, bool):
        return value
    return option.make_absolute(option.parse(str(value)), directory)
