"""
Children that end with their parent, and orphans that process 1 reaps.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.logger import capturedLogs, formatEvent

from pexservice.process import children
from pexservice.process.children import (
    killed_with_parent,
    reap_orphans,
    retry_while_busy,
)

PROGRAM = """
import sys, time
from pexservice.process.signals import end_with_parent
end_with_parent({descriptor})
print("begun", flush=True)
{work}
"""

#: A safety net.  Seconds.
TIMEOUT_SECONDS = 60


@pytest.mark.parametrize(
    ("end", "work"), [("reading", "time.sleep(1000)"), ("writing", "while True: pass")]
)
def test_process_ends_with_its_parent_even_if_it_hangs(end: str, work: str) -> None:
    """
    The process may have either end of the pipe.
    """
    pipe = os.pipe()
    theirs, ours = pipe if end == "reading" else pipe[::-1]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(descriptor=theirs, work=work)],
        pass_fds=(theirs,),
        stdout=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert process.poll() is None
        os.close(ours)
        assert process.wait(TIMEOUT_SECONDS) == -signal.SIGKILL


def test_setpriv_that_fails_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It may be missing or that of busybox, and a sandbox of systemd may forbid what it calls.
    """
    # The function without its cache.
    words = killed_with_parent.__wrapped__
    monkeypatch.setenv("PATH", str(tmp_path))
    assert words() == ()
    (tmp_path / "setpriv").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "setpriv").chmod(0o755)
    assert words() == ()


def test_attempt_is_retried_while_the_address_or_the_store_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempt = Mock(side_effect=[OSError("in use"), OSError("in use"), "free"])
    with capturedLogs() as events:
        assert retry_while_busy(attempt, OSError, lambda _: True) == "free"
    assert [formatEvent(event) for event in events] == ["in use; retrying"]
    attempt.side_effect = OSError("in use")
    with pytest.raises(OSError, match="in use"):
        retry_while_busy(attempt, OSError, lambda _: False)
    monkeypatch.setattr(children, "BUSY_TIMEOUT_SECONDS", -1.0)
    with pytest.raises(OSError, match="in use"):
        retry_while_busy(attempt, OSError, lambda _: True)


def ended_child() -> int:
    """
    Return the process id of a child that has ended and was not reaped.
    """
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_all_ended_orphans_are_reaped_and_none_is_no_error() -> None:
    pids = [ended_child() for _ in range(3)]
    reap_orphans(set())
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)
    reap_orphans(set())


def test_own_children_are_not_reaped() -> None:
    """
    Other code of this process waits for them.
    """
    pid = ended_child()
    reap_orphans({pid})
    assert os.waitpid(pid, 0) == (pid, 0)
