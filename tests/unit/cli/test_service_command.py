"""
The commands C{pexservice} and C{python -m pexservice}.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from pexservice.cli import service_command
from pexservice.cli.service_command import FRONT_PAGE, is_pexctl, print_front_page

VERSION = f"pexservice {version('pexservice')}\n"


@pytest.mark.parametrize(
    ("arguments", "is_for_pexctl", "shown"),
    [
        *(([], False, FRONT_PAGE), (["--help"], False, FRONT_PAGE)),
        *((["-h"], False, FRONT_PAGE), (["--version"], False, VERSION)),
        *((["pexservice"], False, ""), (["-n", "pexservice", "--help"], False, "")),
        *((["-n"], False, ""), (["pexservice-worker"], False, "")),
        *((["status"], True, ""), (["verify", "--help"], True, "")),
        (["pexservce"], True, ""),
    ],
)
def test_command_line_is_for_pexctl_or_twistd_or_shows_our_own_text(
    arguments: list[str],
    shown: str,
    capsys: pytest.CaptureFixture[str],
    *,
    is_for_pexctl: bool,
) -> None:
    assert is_pexctl(arguments) == is_for_pexctl
    assert print_front_page(arguments) == bool(shown)
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("arguments", "twisted"),
    [
        ([], ["--nodaemon", "--pidfile=", "pexservice"]),
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


def test_ctrl_c_during_the_imports_of_pexctl_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "pexservice.cli.pexctl", raising=False)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=interrupt)])
    assert service_command.pexctl() == 130


def test_ctrl_c_does_not_reach_a_worker_that_still_imports_twisted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    A terminal sends SIGINT to a process group, which the worker leaves before.
    """
    groups: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "setpgid", lambda *group: groups.append(group))
    monkeypatch.setattr(sys, "argv", ["", "pexservice-worker", "--supervisor", "none"])
    monkeypatch.setitem(sys.modules, "twisted.scripts.twistd", None)
    with pytest.raises(ImportError):
        runpy.run_module("pexservice", run_name="__main__")
    assert groups == [(0, 0)]
