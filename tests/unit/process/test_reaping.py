"""
The reaping of orphans.
"""

from __future__ import annotations

import os

import pytest

from pexservice.process.reaping import bury_orphans


def ended_child() -> int:
    """
    Return the id of a child that has ended and was not waited for.
    """
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_others_are_buried() -> None:
    """
    All orphans that have ended are reaped, and their absence is no error.
    """
    pids = [ended_child() for _ in range(3)]
    bury_orphans(set())
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)
    bury_orphans(set())


def test_our_own_are_left() -> None:
    """
    A child of our own is not reaped, because other code of this process waits for it.
    """
    pid = ended_child()
    bury_orphans({pid})
    assert os.waitpid(pid, 0) == (pid, 0)
