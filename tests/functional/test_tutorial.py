"""
The commands of the tutorial, run in a new Debian system.
"""

from __future__ import annotations

import pytest

from tests.support.tutorial import PAGE, Command, commands, transcript

pytestmark = pytest.mark.once


def test_output_of_a_command_matches_with_gaps() -> None:
    command = Command(root=False, line="ls", prints=("a …", "…", "b"))
    assert command.matches("a 1\nb\n")
    assert command.matches("a 1\nx\ny\nb\n")
    assert not command.matches("a 1\n")
    assert not command.matches("a \nb\n")
    assert not command.matches("a 1\nb\nc\n")


def test_commands_of_the_page_are_found() -> None:
    (first, second) = commands("```console\n# a\n$ b\n1\n2\n```\n$ c\n")
    assert first == Command(root=True, line="a", prints=())
    assert second == Command(root=False, line="b", prints=("1", "2"))
    assert len(commands(PAGE.read_text())) > 30


@pytest.mark.long
@pytest.mark.needs("root", "mmdebstrap")
def test_every_command_of_the_tutorial_does_and_prints_what_the_page_says() -> None:
    for command, printed, status in transcript():
        promised = "\n".join(command.prints)
        assert status == 0, f"{command.line}: status {status}, {printed}"
        assert command.matches(printed), (
            f"{command.line}:\n{printed}\ninstead of\n{promised}"
        )
