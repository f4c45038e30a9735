"""
The output of C{python -m pexservice} without a command.
"""

from __future__ import annotations

import pytest

from pexservice.cli.front_page import FRONT_PAGE, answer

VERBS = ("status", "verify")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """
    The help is our own front page, and not the whole of twistd's.
    """
    assert answer(arguments, VERBS) == 0
    assert capsys.readouterr().out == FRONT_PAGE


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The version is ours too.
    """
    assert answer(["--version"], VERBS) == 0
    assert capsys.readouterr().out.startswith("pexservice ")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("pexservce", " (did you mean pexservice?)"), ("statsu", " (did you mean status?)")],
)
def test_an_unknown_command(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    An unknown command is refused in one line that suggests a similar one.
    """
    assert answer([word], VERBS) == 64
    assert f"there is no command {word}{hint};" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["pexservice"], ["-n", "pexservice", "--help"], ["-n"], ["pexservice-worker"]],
)
def test_commands_for_twistd(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A command of twistd's is left to twistd.
    """
    assert answer(arguments, VERBS) is None
    assert capsys.readouterr() == ("", "")
