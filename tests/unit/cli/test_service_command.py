"""
The command C{pexservice}.
"""

from __future__ import annotations

import os
import sys

import pytest

from pexservice.cli import service_command


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
