"""
C{--help}, and the other places that list the options.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pexservice.cli.help import help_of
from pexservice.cli.twistd import CommonOptions, ServiceOptions, WorkerOptions
from pexservice.settings.option import Option

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("options", [ServiceOptions(), WorkerOptions()])
def test_every_option_is_listed_once_on_short_lines(options: CommonOptions) -> None:
    shown = options.getUsage()
    listed_options = re.findall(r"^  --([a-z-]+)", shown, re.MULTILINE)
    assert sorted(listed_options) == sorted(
        option_name.rstrip("=") for option_name in options.longOpt
    )
    assert max(map(len, shown.splitlines())) <= 80


def test_default_is_shown_as_it_would_be_typed() -> None:
    help_by_option = {option.name: help_of(option) for option in ServiceOptions.declared()}
    assert help_by_option["journal"].endswith("for /history. [default: 100000]")
    assert help_by_option["synchronous-commit"].endswith("[default: on]")
    assert help_by_option["listen"].endswith("[default: tcp:8081:interface=127.0.0.1]")
    assert "default" not in help_by_option["token-file"]
    assert "default" not in help_by_option["trusted-proxy"]


def row(option: Option) -> str:
    """
    Write the row of C{docs/options.md} for C{option}.
    """
    values = list(option.arguments(option.default))
    default = f"`{values[-1]}`" if values else "none"
    named = f"--{option.name} {option.metavar}".rstrip().replace("|", r"\|")
    return f"| `{named}` | {default} | {option.help} |"


def test_page_of_the_options_has_a_row_for_each_option() -> None:
    rows = {
        line
        for line in (ROOT / "docs" / "options.md").read_text().splitlines()
        if line.startswith("| `--")
    }
    assert rows == {row(option) for option in ServiceOptions.declared()}
