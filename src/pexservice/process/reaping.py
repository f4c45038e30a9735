"""
The reaping of processes that other processes left to process 1.
"""

from __future__ import annotations

import os
from collections.abc import Container


def bury_orphans(own: Container[int]) -> None:
    """
    Take the exit status of each child that has ended, up to the first one in C{own}.

    @param own: ids of processes that other code of this process waits for.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, 0)
