"""
The check of clients' records finds each fault.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from attrs import evolve

from pexservice.core.cursor import Transition, position_after
from tests.support.forms import amount
from tests.support.linearizability import Record, faults

NEXT, PREVIOUS, RESET = Transition.NEXT, Transition.PREVIOUS, Transition.RESET

#: The time between two moments; a call and its return are up to twice that from theirs.
APART = 4

Plant = Callable[[list[Record], list[Transition]], None]


def recorded(seed: int, size: int) -> tuple[list[Record], list[Transition]]:
    """
    Return the records of C{size} operations and the journal that they made.

    One cursor served the operations, each at a moment between its call and its return.  The
    outcome of a few operations is not known.
    """
    choose = random.Random(seed)  # noqa: S311 nothing secret
    records: list[Record] = []
    journal: list[Transition] = []
    position = 0
    for moment in range(0, APART * size, APART):
        operation = choose.choice([NEXT, NEXT, PREVIOUS, RESET, None])
        if operation is not None:
            journal.append(operation)
            position = position_after(position, operation)
        record = Record(
            client=choose.randrange(16),
            operation=operation,
            called=moment - choose.randrange(2 * APART),
            returned=moment + choose.randrange(2 * APART),
            seen=(len(journal), position),
        )
        records.append(evolve(record, seen=None) if choose.random() < 0.1 else record)
    return records, journal


def known_record(records: Sequence[Record], operation: Transition | None) -> int:
    """
    Return the index of a record, from the middle on, with a response to C{operation}.
    """
    return next(
        index
        for index in range(len(records) // 2, len(records))
        if records[index].operation is operation and records[index].seen
    )


def lost_acknowledgement(records: list[Record], journal: list[Transition]) -> None:
    """
    Cut the journal off before the last acknowledged step.
    """
    last = max(record.seen[0] for record in records if record.seen and record.operation)
    del journal[last - 1 :]


def move_read(records: list[Record], moments: int) -> None:
    read = known_record(records, None)
    time = records[read].called + moments * APART
    records[read] = evolve(records[read], called=time, returned=time)


def stale_read(records: list[Record], _: list[Transition]) -> None:
    """
    Move a read to long after the state that it was shown.
    """
    move_read(records, 20)


def from_the_future(records: list[Record], _: list[Transition]) -> None:
    """
    Move a read to before the steps that it was shown were asked for.
    """
    move_read(records, -10)


def doubled_step(records: list[Record], journal: list[Transition]) -> None:
    """
    Make the last step more often than it was asked for.
    """
    journal.extend([journal[-1]] * (1 + sum(record.seen is None for record in records)))


def responded_twice(records: list[Record], _: list[Transition]) -> None:
    """
    Tell two clients the same step.
    """
    step = known_record(records, NEXT)
    records.append(evolve(records[step], client=17))


def wrong_position(records: list[Record], _: list[Transition]) -> None:
    """
    Tell a position that is off by one.
    """
    step = known_record(records, NEXT)
    revision, position = records[step].seen or (0, 0)
    records[step] = evolve(records[step], seen=(revision, position + 1))


def wrong_step(records: list[Record], _: list[Transition]) -> None:
    """
    Record a request for a step down where the step made was up.
    """
    step = known_record(records, NEXT)
    records[step] = evolve(records[step], operation=PREVIOUS)


PLANTS: dict[Plant, str] = {
    lost_acknowledgement: "there is no such revision",
    stale_read: "stale, it began after",
    doubled_step: "no client requested it",
    responded_twice: "that was client",
    wrong_position: "the position is",
    wrong_step: "that was next",
    from_the_future: "from the future",
}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("seed", range(amount(short=1, long=5)))
def test_planted_fault_among_thousands_of_operations_is_named(
    plant: Plant, seed: int
) -> None:
    """
    Nothing around the fault is named.
    """
    records, journal = recorded(seed, 5000)
    assert faults(records, journal) == []
    plant(records, journal)
    found_faults = faults(records, journal)
    assert found_faults
    assert all(PLANTS[plant] in fault for fault in found_faults), found_faults


def test_step_with_unknown_outcome_may_have_been_made_or_not() -> None:
    """
    Also after the client gave up. A read without a response has seen nothing.
    """
    records = [
        Record(client=1, operation=NEXT, called=0, returned=1),
        Record(client=2, operation=None, called=2, returned=3, seen=(0, 0)),
        Record(client=3, operation=None, called=2),
    ]
    assert faults(records, []) == []
    assert faults(records, [NEXT]) == []
    assert faults(records, [NEXT, NEXT]) == ["revision 2, next: no client requested it"]


def test_step_with_unknown_outcome_was_not_made_before_its_client_began() -> None:
    records = [
        Record(client=1, operation=None, called=0, returned=1, seen=(1, 1)),
        Record(client=2, operation=NEXT, called=2),
    ]
    (fault,) = faults(records, [NEXT])
    assert "from the future" in fault
    assert faults(records[1:], [NEXT]) == []
