"""
C{--help}.
"""

from __future__ import annotations

import re
from typing import ClassVar

import pytest
from twisted.python.usage import Options

from pexservice.cli.help import GROUPS, grouped
from pexservice.cli.twistd import CommonOptions, ServiceOptions, WorkerOptions


@pytest.mark.parametrize("options", [ServiceOptions(), WorkerOptions()])
def test_every_option_is_told_once(options: CommonOptions) -> None:
    """
    In a group that has a name, on lines that a terminal has room for.
    """
    shown = options.getUsage()
    told = re.findall(r"^  --([a-z-]+)", shown, re.MULTILINE)
    assert sorted(told) == sorted(each.rstrip("=") for each in options.longOpt)
    assert "Other:" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_nothing_is_told_that_is_no_option() -> None:
    """
    The groups name options of one of the two commands.
    """
    known = {
        each.rstrip("=")
        for options in (ServiceOptions(), WorkerOptions())
        for each in options.longOpt
    }
    assert {name for _, names in GROUPS for name in names} <= known


def test_an_option_without_a_group() -> None:
    """
    Is told all the same, and defaults are.
    """

    class New(Options):
        longdesc = "New."
        optParameters: ClassVar[list[list[object]]] = [
            ["new-option", None, 5, "What it does."]
        ]

    assert (
        grouped(New())
        == """
New.

What it tells:
  --help                  Display this help and exit.
  --version               Display Twisted version and exit.

Other:
  --new-option VALUE      What it does. [default: 5]
"""
    )
