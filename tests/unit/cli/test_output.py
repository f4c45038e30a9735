"""
The output of C{pexctl}.
"""

from __future__ import annotations

from contextlib import redirect_stderr

from pexservice.cli.output import ProgressBar
from tests.support.pexctl import Terminal


def test_bar_grows_on_one_line_of_a_terminal_and_is_removed() -> None:
    with redirect_stderr(Terminal()) as terminal, ProgressBar() as bar:
        bar.show("copying", 0)
        bar.show("copying", 50)
        bar.show("copying", 50)
        bar.show("verifying", 250)
    _, *shown, last = terminal.getvalue().replace("\r\r", "\r").split("\r")
    assert last == ""
    first, second, third, cleared = shown
    assert first == f"[{'.' * 30}]   0 % copying"
    assert second == f"[{'#' * 15}{'.' * 15}]  50 % copying"
    assert third == f"[{'#' * 30}] 100 % verifying"
    assert cleared == " " * len(third)
