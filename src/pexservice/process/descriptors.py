"""
The limit of files and connections that this process may have open.
"""

from __future__ import annotations

import resource

from pexservice.process.exit_status import CannotStart

#: Descriptors that connections never get: the store, logs, sockets and what opens for a
#: moment take up to 64, connections that are told to go until the next turn 16, and those
#: that are told that there is no room 32.
RESERVE = 112


#: With fewer a process starts in vain: Twisted, uvloop or the store find none left.
LEAST = 64


def check_limit() -> None:
    """
    Check that this process may open as many files as it needs without connections.

    @raise CannotStart: it may not.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST:
        raise CannotStart(
            f"the limit of open files is {soft}, and {LEAST} are the least that is needed;"
            " raise it with ulimit -n or LimitNOFILE="
        )


def room_for(connections: int) -> int:
    """
    Raise the limit of open files as far as C{connections} need and the system lets us.

    @return: how many there is room for.  More would be accepted by the kernel and
        answered by nobody.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - RESERVE))
