"""
Load from recording clients, and a check of their records against a trimmed history.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pexservice.core.cursor import Transition, position_after
from tests.support.clients import Client, highest, running, whole_history
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


def kept(daemon: Daemon, clients: Sequence[Client], *, forgets: bool = False) -> int:
    """
    Check that no acknowledged step is lost, and that the history has no gap.

    @param forgets: the history may have lost its oldest steps.
    @return: the number of acknowledged steps.
    """
    rows = whole_history(daemon)
    answer, _ = daemon.request("/current")
    newest, oldest = int(answer.headers["Pex-Revision"]), min(rows)
    assert sorted(rows) == list(range(oldest, newest + 1))
    assert forgets or oldest == 1
    steps = {step.revision: step for client in clients for step in client.acknowledged}
    assert len(steps) == sum(len(client.acknowledged) for client in clients)
    assert highest(clients) <= newest
    for revision, step in steps.items():
        if revision >= oldest:
            assert rows[revision] == (step.position, step.word)
        rows[revision] = (step.position, step.word)
    # Steps that are no longer in the history and had no response leave gaps.
    for revision in rows.keys() - {1}:
        if revision - 1 in rows:
            (before, _), (after, word) = rows[revision - 1], rows[revision]
            assert position_after(before, Transition[word.upper()]) == after
    assert int(answer.headers["Pex-Position"]) == rows[newest][0]
    assert [client.refused for client in clients] == [0] * len(clients)
    return len(steps)


def surprises(clients: Sequence[Client]) -> list[str]:
    """
    Return the responses with another status than 200.
    """
    return [surprise for client in clients for surprise in client.surprises]
