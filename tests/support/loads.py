"""
A load from clients that keep records.

The check of the records is one for a history that forgets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pexservice.core.cursor import Transition, position_after
from tests.support.clients import Client, highest, running, whole_history
from tests.support.daemon import Daemon, wait_until

CLIENTS = 8

#: How many steps show that the service continues.
ENOUGH = 3000


@contextmanager
def load(
    daemon: Daemon, number: int = CLIENTS, *, keys: bool = True
) -> Iterator[list[Client]]:
    """
    Have clients step as fast as they are answered, until the end of the block.
    """
    # The clients with an odd number use keys.
    numbers = range(0, number if keys else 2 * number, 1 if keys else 2)
    clients = [Client(n, daemon.port, fresh=n % 4 < 2) for n in numbers]
    with running(clients):
        yield clients


def until_acknowledged(clients: Sequence[Client], more: int = ENOUGH) -> None:
    """
    Wait until the clients have got so many more responses.
    """

    def count() -> int:
        return sum(len(client.acknowledged) for client in clients)

    before = count()
    wait_until(lambda: count() >= before + more, f"{more} more steps")


def kept(daemon: Daemon, clients: Sequence[Client], *, forgets: bool = False) -> int:
    """
    Check that no acknowledged step is lost, and that the history is of one piece.

    @param forgets: the history may not go back to the first of the steps.
    @return: how many steps were acknowledged.
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
    # Older steps without a response leave gaps.
    for revision in rows.keys() - {1}:
        if revision - 1 in rows:
            (before, _), (after, word) = rows[revision - 1], rows[revision]
            assert position_after(before, Transition[word.upper()]) == after
    assert int(answer.headers["Pex-Position"]) == rows[newest][0]
    assert [client.refused for client in clients] == [0] * len(clients)
    return len(steps)


def surprises(clients: Sequence[Client]) -> list[str]:
    """
    Return the answers that were not 200.
    """
    return [surprise for client in clients for surprise in client.surprises]
