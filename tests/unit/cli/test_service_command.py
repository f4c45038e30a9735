"""
The commands C{pexservice} and C{python -m pexservice}.
"""

from __future__ import annotations

import os
import sys

import pytest

from pexservice.cli import service_command
from pexservice.cli.service_command import FRONT_PAGE, is_pexctl, print_front_page


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_is_our_front_page_and_not_twistds(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_pexctl(arguments)
    assert print_front_page(arguments)
    assert capsys.readouterr().out == FRONT_PAGE


def test_version_is_the_one_of_pexservice_and_not_of_twistd(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert print_front_page(["--version"])
    assert capsys.readouterr().out.startswith("pexservice ")


@pytest.mark.parametrize(
    "arguments",
    [["pexservice"], ["-n", "pexservice", "--help"], ["-n"], ["pexservice-worker"]],
)
def test_command_line_with_a_service_is_for_twistd(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_pexctl(arguments)
    assert not print_front_page(arguments)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["status"], ["verify", "--help"], ["pexservce"]])
def test_command_line_that_starts_with_another_word_is_for_pexctl(
    arguments: list[str],
) -> None:
    assert is_pexctl(arguments)


@pytest.mark.parametrize(
    ("arguments", "twisted"),
    [
        ([], ["--nodaemon", "--pidfile=", "pexservice"]),
        (
            ["--journal", "5"],
            ["--nodaemon", "--pidfile=", "pexservice", "--journal", "5"],
        ),
        (["--help"], ["--nodaemon", "--pidfile=", "pexservice", "--help"]),
        (["-n", "pexservice-worker"], ["-n", "pexservice-worker"]),
        (["pexservice", "--help"], ["pexservice", "--help"]),
    ],
)
def test_options_run_the_service_in_the_foreground_and_a_service_name_runs_twistd(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], twisted: list[str]
) -> None:
    commands: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda *command: commands.append(command))
    monkeypatch.setattr(sys, "argv", ["pexservice", *arguments])
    service_command.main()
    assert commands == [(sys.executable, [sys.executable, "-m", "pexservice", *twisted])]
