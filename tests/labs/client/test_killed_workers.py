"""
The script and the FastAPI program of docs/calling.md, while active workers are killed.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.labs.client.lab import kill_worker
from tests.support.calling_page import command
from tests.support.daemon import TIMEOUT_SECONDS, Daemon
from tests.support.forms import amount

KILLS = amount(short=3, long=20)

#: How long a program runs between two kills.  On a quiet machine, the standby is ready
#: again by then.  A kill before that tests less, but does no harm.
INTERVAL_SECONDS = 1.0

#: The Python program prints every value, and the last one has 4,180 digits.
MAX_STEPS = 20_000

#: Eight clients of the FastAPI program, each of which sends every second request twice.
TICKETS = """
import os
from concurrent.futures import ThreadPoolExecutor
from fastapi.testclient import TestClient

def take_tickets(number):
    for count in range(STEPS // 8):
        for _ in range(1 + count % 2):
            headers = {"Idempotency-Key": f"{number}-{count}"}
            response = client.post("/tickets", headers=headers)
            assert response.status_code == 200, response.text
        os.write(1, b"position %d\\n" % response.json()["ticket"])

with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
    list(pool.map(take_tickets, range(8)))
"""


@pytest.mark.parametrize(
    "heading",
    [
        "Python",
        pytest.param("asyncio and FastAPI", marks=pytest.mark.needs("fastapi", "httpx")),
    ],
)
def test_program_leaves_no_gap_and_no_duplicate(tmp_path: Path, heading: str) -> None:
    """
    The program prints every position once, and the service made no other step.
    """
    steps = min(800 * KILLS, MAX_STEPS)
    kills = 0
    with Daemon(tmp_path) as daemon:
        tickets = TICKETS.replace("STEPS", str(steps)) if heading != "Python" else ""
        *python, program = command(heading, daemon.port, also=tickets)
        program = program.replace("range(3)", f"range({steps})")
        with (
            (tmp_path / "output").open("w") as output,
            subprocess.Popen(
                [*python, program], cwd=tmp_path, stdout=output, stderr=subprocess.PIPE
            ) as process,
        ):
            # The first kill comes before the first step, so at least one kill is certain.
            while kills < KILLS and process.poll() is None:
                kills += kill_worker(daemon)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(INTERVAL_SECONDS)
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS + KILLS * 20)
            assert process.returncode == 0, errors.decode()
        revision = int(daemon.request("/current")[0].headers["Pex-Revision"])
    text = (tmp_path / "output").read_text()
    positions = [
        int(number) for number in re.findall(r"^position (\d+)", text, re.MULTILINE)
    ]
    print(f"{kills} kills, {len(positions)} steps")
    assert kills > 0
    assert sorted(positions) == list(range(1, steps + 1))
    assert revision == steps
