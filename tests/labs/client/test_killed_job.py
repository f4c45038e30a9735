"""
The job of docs/calling.md, killed at random moments and started again.
"""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import time
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.support.calling_page import command
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, wait_until
from tests.support.forms import amount
from tests.support.troublesome_proxy import troublesome_proxy

HEADING = "A job that may be killed"

KILLS = amount(short=8, long=100)

#: The job makes a step within this time: the proxy loses two requests of each step.
STEP_SECONDS = 0.2


def test_job_that_is_killed_leaves_no_gap_and_no_duplicate(tmp_path: Path) -> None:
    """
    After the last run, every customer has a number, and the service made no other step.
    """
    seed = random.randrange(2**32)  # noqa: S311 nothing secret
    print("seed", seed)
    moments = random.Random(seed)  # noqa: S311 nothing secret
    customers = [f"customer {number}" for number in range(3 * KILLS)]
    kills = 0
    with (
        Daemon(tmp_path, command="pexservice-worker") as daemon,
        troublesome_proxy(daemon.port) as proxy,
    ):
        *python, program = command(HEADING, proxy.port)
        job = [*python, re.sub(r"CUSTOMERS = .*", f"CUSTOMERS = {customers}", program)]

        def has_sent(process: subprocess.Popen[bytes], before: int) -> bool:
            return requests() > before or process.poll() is not None

        def requests() -> int:
            return sum(proxy.attempts.values())

        while kills < KILLS:
            before = requests()
            with subprocess.Popen(job, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
                wait_until(partial(has_sent, process, before), "the job has sent a step")
                if process.poll() is not None:
                    # On a busy machine, the job may end before this process checks it.
                    break
                time.sleep(moments.uniform(0, STEP_SECONDS))
                process.kill()
            kills += 1
        ended = subprocess.run(
            job,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        replayed = ended.stdout.count("replayed: True")
        steps = int(daemon.request("/current")[0].headers["Pex-Revision"])
    with closing(sqlite3.connect(tmp_path / "invoices.db")) as database:
        rows = database.execute("SELECT customer, number FROM invoices ORDER BY number")
        invoices = rows.fetchall()
    print(f"{kills} kills, {len(invoices)} invoices, {replayed} replayed at the end")
    assert kills > 0
    assert [number for _, number in invoices] == list(range(1, len(customers) + 1))
    assert [customer for customer, _ in invoices] == customers
    assert steps == len(customers)
