"""
Run the programs of docs/calling.md behind a proxy that loses responses.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pexservice.client import BlockingCursor
from pexservice.core.sequence import term_at
from tests.support.calling_page import PAGE, PROGRAMS, URL, command
from tests.support.daemon import TIMEOUT_SECONDS, WORKER, Daemon, captured
from tests.support.stores import make_store
from tests.support.troublesome_proxy import troublesome_proxy

#: Three requests by two clients of the FastAPI program; one of them repeats its request.
TICKETS = """
from fastapi.testclient import TestClient

with TestClient(app) as client:
    for key in ("a", "b", "a"):
        response = client.post("/tickets", headers={"Idempotency-Key": key})
        print(response.status_code, response.json())
    print(client.post("/tickets", headers={"Idempotency-Key": "a b"}).status_code)
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("worker"), command=WORKER) as daemon:
        yield daemon


@pytest.mark.parametrize(
    ("heading", "also", "printed", "attempts"),
    [
        (
            "Twisted",
            "",
            "position 1 value 1\nthe cursor is at revision REVISION\n"
            "REVISION next to 1\nEARLIER_STEPSseen at revision REVISION\n",
            # The precondition of the second step is not met.
            [3, 3],
        ),
        pytest.param(
            "asyncio and FastAPI",
            TICKETS,
            "200 {'ticket': 1}\n200 {'ticket': 2}\n200 {'ticket': 1}\n422\n",
            # The repeated request takes a fourth attempt.
            [4, 3],
            marks=pytest.mark.needs("fastapi", "httpx"),
        ),
        (
            "A job that may be killed",
            "",
            "Ada has invoice 1 replayed: True\nGrace has invoice 2 replayed: True\n"
            "Hedy has invoice 3 replayed: True\n",
            [3, 3, 3],
        ),
        pytest.param(
            "curl",
            "step next mine; step next mine",
            "1\n1\n1\n",
            # The step with the key is made once; its repetition takes a fourth attempt.
            [3, 4],
            marks=pytest.mark.needs("curl"),
        ),
    ],
)
def test_program_makes_each_step_once_although_responses_are_lost(
    worker: Daemon,
    tmp_path: Path,
    heading: str,
    also: str,
    printed: str,
    *,
    attempts: list[int],
) -> None:
    before = worker.step("reset")
    with BlockingCursor(f"http://127.0.0.1:{worker.port}") as cursor:
        earlier_steps = "".join(
            f"{step.revision} {step.transition} to {step.position}\n"
            for step in cursor.history(limit=9)
        )
    printed = printed.replace("REVISION", str(before + 1))
    printed = printed.replace("EARLIER_STEPS", earlier_steps)
    with troublesome_proxy(worker.port) as proxy:
        ended = captured(command(heading, proxy.port, also=also), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    # curl reports each failed attempt.
    assert heading in ("curl", "asyncio and FastAPI") or not ended.stderr
    assert ended.stdout == printed
    assert list(proxy.attempts.values()) == attempts
    positions = re.findall(r"(?:position|ticket|invoice)\W+(\d)", printed)
    assert worker.revision() - before == max(map(int, positions), default=len(attempts))


@pytest.fixture(scope="module")
def far_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    path = tmp_path_factory.mktemp("far")
    make_store(path / "pexservice-data", 20_700)
    with Daemon(path, command=WORKER) as daemon:
        yield daemon


@pytest.mark.parametrize(
    ("heading", "suffix"),
    [("Python", ""), pytest.param("JavaScript", "n", marks=pytest.mark.needs("node"))],
)
def test_program_also_prints_values_that_are_too_long_for_the_str_of_python(
    far_worker: Daemon, tmp_path: Path, heading: str, suffix: str
) -> None:
    first = far_worker.revision() + 1
    with troublesome_proxy(far_worker.port) as proxy:
        ended = captured(command(heading, proxy.port), cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "".join(
        f"position {position} value {term_at(position).value}{suffix}\n"
        for position in range(first, first + 3)
    )
    assert list(proxy.attempts.values()) == [3, 3, 3]
    assert far_worker.revision() == first + 2


@pytest.mark.needs("curl")
def test_curl_function_in_an_interactive_shell_does_not_end_it_after_a_failure(
    worker: Daemon, tmp_path: Path
) -> None:
    _, program = PROGRAMS["curl"]
    typed = program.replace(URL, f"http://127.0.0.1:{worker.port}")
    ended = subprocess.run(
        ["/bin/bash", "--norc", "-i"],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        input=f"{typed.replace('step next', 'step nothing')}\necho status $?\n",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert ended.stdout == "status 1\n"
    # The problem lists the paths.
    assert "/history" in ended.stderr
    assert not list(tmp_path.glob("tmp.*"))


def test_every_program_of_the_page_is_run() -> None:
    assert len(PROGRAMS) == PAGE.count("```") // 2 == 6
