"""
How many files and connections this process may have open.
"""

from __future__ import annotations

import resource

#: Descriptors that connections never get: the store, logs, sockets and what opens for a
#: moment take up to 64, connections that are told to go until the next turn 16, and those
#: that are told that there is no room 32.
RESERVE = 112


def room_for(connections: int) -> int:
    """
    Have the limit of open files raised as far as C{connections} need and the system
    lets us.

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
