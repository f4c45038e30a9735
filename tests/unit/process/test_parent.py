"""
The end of a process together with the process that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from pexservice.process.parent import end_with_parent
end_with_parent({descriptor}, {stop})
print("begun", flush=True)
{work}
"""

#: A safety net.  Seconds.
PATIENCE = 60


@pytest.mark.parametrize("end", ["reading", "writing"])
@pytest.mark.parametrize("work", ["time.sleep(1000)", "while True: pass"])
def test_it_ends_with_its_parent(end: str, work: str) -> None:
    """
    A process ends with its parent, even if it hangs, and whichever end of the pipe it has.
    """
    pipe = os.pipe()
    theirs, ours = pipe if end == "reading" else pipe[::-1]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(descriptor=theirs, stop=None, work=work)],
        pass_fds=(theirs,),
        stdout=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert process.poll() is None
        os.close(ours)
        assert process.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("work", "status"), [("time.sleep(0.1)", 0), ("time.sleep(1000)", -signal.SIGKILL)]
)
def test_it_may_stop_in_order(work: str, status: int) -> None:
    """
    The stop function is called first; a process that does not stop in time is killed.
    """
    reading, writing = os.pipe()
    stop = "lambda: print('stopping', flush=True)"
    work = f"sys.stdin.readline()\n{work}"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(descriptor=reading, stop=stop, work=work)],
        pass_fds=(reading,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        os.close(reading)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"begun\n"
        os.close(writing)
        assert process.stdout.readline() == b"stopping\n"
        process.stdin.close()
        assert process.wait(PATIENCE) == status
