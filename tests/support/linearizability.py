"""
Check that the responses to many clients are consistent with one cursor.

Each client records its requests, their times and its responses.  The records are right if
one cursor could have given all responses by making one operation at a time: each operation
happens at one moment between its call and its return, and sees the cursor of that moment.
This property is called linearizability.

L{faults} knows the steps that were made, in their order.  So it only has to sort, in
n log n, and it says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from attrs import frozen

from pexservice.core.cursor import Transition, position_after


@frozen(kw_only=True, eq=False)
class Record:
    """
    One operation of one client.

    @ivar operation: L{None} for a read, and for a step whose precondition was not met.
    @ivar called: when the operation began, on a clock that all clients share.
    @ivar returned: when its outcome was known; infinite if it never was.
    @ivar seen: the revision and the position in its response.  If there was none, the step
        may have been made at any time after C{called}, or never.
    @ivar refused: the response says that no step was made.
    """

    client: int
    operation: Transition | None
    called: float
    returned: float = math.inf
    seen: tuple[int, int] | None = None
    refused: bool = False

    def __str__(self) -> str:
        name = "current" if self.operation is None else self.operation.word
        outcome = "refused" if self.refused else "unknown"
        if self.seen is not None:
            outcome = f"revision {self.seen[0]}, position {self.seen[1]}"
        times = f"{round(self.called, 4)} to {round(self.returned, 4)}"
        return f"client {self.client}'s {name} ({outcome}; {times})"


def positions(journal: Sequence[Transition]) -> list[int]:
    """
    Return the position at each revision, from revision 0.
    """
    return list(accumulate(journal, position_after, initial=0))


def require_linearizable(records: Sequence[Record], journal: Sequence[Transition]) -> None:
    """
    @raise AssertionError: the records contradict a single cursor; see L{faults}.
    """
    contradictions = faults(records, journal)
    assert not contradictions, "\n".join(
        [f"{len(contradictions)} faults", *contradictions[:20]]
    )


def faults(records: Sequence[Record], journal: Sequence[Transition]) -> list[str]:
    """
    Find records that contradict a single cursor.

    @param journal: the transitions that were made, from revision 1 to the last.
    @return: a sentence for each fault.
    """
    contradictions = [*_contradictions(records, journal)]
    # The order of records that contradict the journal cannot be checked.
    return contradictions or [*_disorder(records, journal)]


def _contradictions(
    records: Sequence[Record], journal: Sequence[Transition]
) -> Iterator[str]:
    """
    Yield the records whose response contradicts the steps that were made.

    The times are not considered.
    """
    led_to = positions(journal)
    owners: dict[int, Record] = {}
    for record in records:
        if record.seen is None:
            continue
        revision, position = record.seen
        move = record.operation
        if not (move is not None) <= revision < len(led_to):
            yield f"{record}: there is no such revision, the last is {len(journal)}"
        elif position != led_to[revision]:
            yield f"{record}: the position is {led_to[revision]}"
        elif move is not None and move is not journal[revision - 1]:
            yield f"{record}: that was {journal[revision - 1].word}"
        elif move is not None and owners.setdefault(revision, record) is not record:
            yield f"{record}: that was {owners[revision]}"


def _disorder(records: Sequence[Record], journal: Sequence[Transition]) -> Iterator[str]:
    """
    Yield the records whose order in time contradicts the order of their revisions.

    Also yield the revisions that no client requested.
    """
    size = len(journal) + 1
    # For each revision, the record that gives the latest time before the step was made (the
    # time of its call), and the one that gives the earliest time after it (of its return).
    not_before: list[Record | None] = [None] * (size + 1)
    not_after: list[Record | None] = [None] * size
    owned: set[int] = set()
    for record in records:
        if record.seen is None:
            continue
        revision = record.seen[0]
        begins = revision + (record.operation is None)
        if record.operation is not None:
            owned.add(revision)
        not_before[begins] = _later(not_before[begins], record)
        not_after[revision] = _sooner(not_after[revision], record)
    latest = None
    for revision in range(1, size):
        latest = _later(latest, not_before[revision])
        seen = not_after[revision]
        if latest is not None and seen is not None and latest.called > seen.returned:
            if latest.operation is None:
                yield f"{latest}: stale, it began after {seen} had ended"
            else:
                yield f"{seen}: from the future, {latest} began after it had ended"
    yield from _unasked(records, journal, owned, not_after)


def _unasked(
    records: Sequence[Record],
    journal: Sequence[Transition],
    owned: set[int],
    not_after: Sequence[Record | None],
) -> Iterator[str]:
    """
    Yield the revisions that no response has and no client can have requested.

    Each must belong to an operation with an unknown outcome that was requested before any
    client saw the revision.
    """
    deadlines = [*accumulate(reversed(not_after), _sooner)][::-1]
    unknown = [record for record in records if record.seen is None and not record.refused]
    for transition in Transition:
        candidates = iter(
            sorted(
                (record for record in unknown if record.operation is transition),
                key=lambda record: record.called,
            )
        )
        for revision, transition_made in enumerate(journal, 1):
            if transition_made is not transition or revision in owned:
                continue
            # If the operation that was called first was too late, so were all others.
            candidate, seen = next(candidates, None), deadlines[revision]
            if candidate is None:
                yield f"revision {revision}, {transition_made.word}: no client requested it"
            elif seen is not None and candidate.called > seen.returned:
                yield f"{seen}: from the future, {candidate} began after it had ended"


def _later(first: Record | None, other: Record | None) -> Record | None:
    if first is None or other is None:
        return first or other
    return first if first.called >= other.called else other


def _sooner(first: Record | None, other: Record | None) -> Record | None:
    if first is None or other is None:
        return first or other
    return first if first.returned <= other.returned else other
