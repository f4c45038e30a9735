"""
The programs of docs/calling.md, run where answers are lost.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE, Daemon
from tests.support.troublesome_proxy import troublesome_proxy

PAGE = (Path(__file__).parents[2] / "docs" / "calling.md").read_text()

#: The address that the programs call.
URL = "http://127.0.0.1:8081"

#: The program after each heading.
PROGRAMS = {
    heading: (language, program)
    for heading, language, program in re.findall(
        r"(?ms)^##+ ([^\n]*)\n(?:(?!^#).)*?^```(\w+)\n(.*?)^```$", PAGE
    )
}

COMMANDS = {
    "python": (sys.executable, "-W", "error", "-c"),
    "sh": ("sh", "-euc"),
    "javascript": ("node", "-e"),
}

THREE = "position 1 value 1\nposition 2 value 1\nposition 3 value 2\n"


@pytest.mark.parametrize(
    ("heading", "printed", "steps", "made"),
    [
        (
            "Python: our own client",
            "position 1 value 1\nthe cursor is at revision 1\n1 next to 1\n"
            "seen at revision 1\n",
            # The second is one whose condition does not hold.
            2,
            1,
        ),
        ("A script without a reactor", THREE, 3, 3),
        pytest.param("curl", "1\n", 1, 1, marks=pytest.mark.needs("curl")),
        pytest.param("Python: requests", THREE, 3, 3, marks=pytest.mark.needs("requests")),
        pytest.param("Python: httpx", THREE, 3, 3, marks=pytest.mark.needs("httpx")),
        pytest.param(
            "JavaScript",
            re.sub(r"(value \d)", r"\1n", THREE),
            3,
            3,
            marks=pytest.mark.needs("node"),
        ),
    ],
)
def test_made_once(
    tmp_path: Path, heading: str, printed: str, steps: int, made: int
) -> None:
    """
    Every step is sent three times and made once, and the program prints what it should.
    """
    language, program = PROGRAMS[heading]
    assert URL in program
    with (
        Daemon(tmp_path, command="pexservice-worker") as daemon,
        troublesome_proxy(daemon.port) as proxy,
    ):
        ended = subprocess.run(
            [
                *COMMANDS[language],
                program.replace(URL, f"http://127.0.0.1:{proxy.port}"),
            ],
            cwd=tmp_path,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert ended.returncode == 0, ended.stderr
        # curl tells of each attempt.
        assert language == "sh" or not ended.stderr
        assert ended.stdout == printed
        assert list(proxy.attempts.values()) == [3] * steps
        assert daemon.ask("/current")[0].headers["Pex-Revision"] == str(made)


def test_every_program_is_run() -> None:
    """
    No program of the page is left out above.
    """
    assert len(PROGRAMS) == PAGE.count("```") // 2 == 6
