"""
The output of C{pexctl}.
"""

from __future__ import annotations

from io import StringIO

from pexservice.cli.output import ProgressBar


class Terminal(StringIO):
    """
    A stream that is a terminal.
    """

    def isatty(self) -> bool:
        """
        Return C{True}.
        """
        return True


def test_bar_grows_on_one_line_of_a_terminal_and_is_removed() -> None:
    terminal = Terminal()
    with ProgressBar(terminal) as bar:
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


def test_progress_bar_is_drawn_on_a_terminal_only() -> None:
    stream = StringIO()
    with ProgressBar(stream) as bar:
        bar.show("copying", 50)
    assert stream.getvalue() == ""
