"""
Load from recording clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.support.clients import Client, check, running
from tests.support.daemon import Daemon, wait_until

CLIENTS = 8

#: After this many more steps, a test assumes that the service continues.
ENOUGH = 1000


@contextmanager
def load(
    daemon: Daemon, number: int = CLIENTS, *, keys: bool = True, pause_seconds: float = 0.0
) -> Iterator[list[Client]]:
    """
    Run clients that make steps, by default without pauses, until the end of the block.
    """
    # Clients with an odd number use keys.
    numbers = range(0, number if keys else 2 * number, 1 if keys else 2)
    clients = [Client(n, daemon.port, n % 4 < 2, pause_seconds) for n in numbers]
    with running(clients):
        yield clients


def until_acknowledged(clients: Sequence[Client], more: int = ENOUGH) -> None:
    """
    Wait until the clients have got C{more} responses.
    """

    def count() -> int:
        return sum(len(client.acknowledged) for client in clients)

    before = count()
    wait_until(lambda: count() >= before + more, f"{more} more steps")


def kept(daemon: Daemon, clients: Sequence[Client], **options: Any) -> int:
    """
    Check that no connection was refused, and that no acknowledged step is lost.

    @param options: arguments of L{check}.
    @return: the number of acknowledged steps.
    """
    acknowledged, _ = check(daemon, clients, **options)
    assert [client.refused for client in clients] == [0] * len(clients)
    return acknowledged
