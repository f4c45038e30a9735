"""
The output of C{python -m pexservice} without a command.
"""

from __future__ import annotations

import pytest

from pexservice.cli.front_page import FRONT_PAGE, answer, is_pexctl


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_is_our_front_page_and_not_twistds(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_pexctl(arguments)
    assert answer(arguments) == 0
    assert capsys.readouterr().out == FRONT_PAGE


def test_version_is_the_one_of_pexservice_and_not_of_twistd(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert answer(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pexservice ")


@pytest.mark.parametrize(
    "arguments",
    [["pexservice"], ["-n", "pexservice", "--help"], ["-n"], ["pexservice-worker"]],
)
def test_command_line_with_a_service_is_for_twistd(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_pexctl(arguments)
    assert answer(arguments) is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["status"], ["verify", "--help"], ["pexservce"]])
def test_command_line_that_starts_with_another_word_is_for_pexctl(
    arguments: list[str],
) -> None:
    assert is_pexctl(arguments)
