"""
The check whether many clients were served by one cursor.

Each client records its requests, their times, and its responses.  Such records are
right if one cursor could have told all of it, making one step at a time: each operation
took its place at one moment between its call and its return, and saw what the cursor was
then.

There are two ways to find that out, which share nothing but the cursor's rules.  L{faults}
takes the steps that were made in the end, in order, and so knows every place: sorting is
all that is left, n log n, and it says what is wrong.  L{linearizable} knows nothing and
searches all orders, as Wing and Gong do, with a memory of where it has been; for short
records.

Pure: no clock, no service.
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

    @ivar operation: L{None} for a look at the cursor; an unmet precondition is one.
    @ivar called: when it began, on any clock that all clients share.
    @ivar returned: when its end was known; infinite if it never was.
    @ivar seen: the revision and the position in its response.  Without, nobody
        knows whether it was made, or when: maybe after it was given up.
    @ivar refused: its response says that no step was made, and none may have been.
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
    Return by revision, from 0, where C{journal} leads.
    """
    return list(accumulate(journal, position_after, initial=0))


def faults(records: Sequence[Record], journal: Sequence[Transition]) -> list[str]:
    """
    Find what no single cursor can have told.

    @param journal: the transitions that were made, from revision 1 to the last.
    @return: each fault in words; empty if all is well.
    """
    contradictions = [*_contradictions(records, journal)]
    # A record that contradicts the journal has no place in the order.
    return contradictions or [*_disorder(records, journal)]


def _contradictions(
    records: Sequence[Record], journal: Sequence[Transition]
) -> Iterator[str]:
    """
    Yield contradictions between each record and the steps that were made.

    The order in time does not count here.
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
    Yield contradictions between the order of the revisions and that of the time.

    Also yield revisions that no client asked for.
    """
    size = len(journal) + 1
    # By revision, the record that shows best when the revision was not made yet (when it
    # was called), and the record that shows best when it was made (when it returned).
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
    Yield faults of revisions that no response has.

    Each must be of an operation whose end is not known, and which was asked for before
    anybody saw the revision.
    """
    deadlines = [*accumulate(reversed(not_after), _sooner)][::-1]
    unknown = [record for record in records if record.seen is None and not record.refused]
    for transition in Transition:
        asked = iter(
            sorted(
                (record for record in unknown if record.operation is transition),
                key=lambda record: record.called,
            )
        )
        for revision, transition_made in enumerate(journal, 1):
            if transition_made is not transition or revision in owned:
                continue
            # If the operation that was called first came too late, so did all others.
            asking, seen = next(asked, None), deadlines[revision]
            if asking is None:
                yield f"revision {revision}, {transition_made.word}: nobody asked for it"
            elif seen is not None and asking.called > seen.returned:
                yield f"{seen}: from the future, {asking} began after it had ended"


def _later(first: Record | None, other: Record | None) -> Record | None:
    if first is None or other is None:
        return first or other
    return first if first.called >= other.called else other


def _sooner(first: Record | None, other: Record | None) -> Record | None:
    if first is None or other is None:
        return first or other
    return first if first.returned <= other.returned else other


def linearizable(
    records: Sequence[Record], journal: Sequence[Transition] | None = None
) -> bool:
    """
    Return whether there is an order in which one cursor can have told C{records}.

    @param journal: the steps that the order has to make, if they are known.
    """
    pending = [
        record
        for record in records
        if not record.refused and (record.seen is not None or record.operation is not None)
    ]
    return _search(frozenset(pending), (0, 0), journal, set())


def _search(
    pending: frozenset[Record],
    state: tuple[int, int],
    journal: Sequence[Transition] | None,
    been: set[tuple[frozenset[Record], tuple[int, int]]],
) -> bool:
    """
    Return whether C{pending} can follow when the cursor is at C{state}.

    @param been: the pending records and states from which they could not.
    """
    if all(record.seen is None for record in pending) and (
        journal is None or state[0] == len(journal)
    ):
        return True
    if (pending, state) in been:
        return False
    been.add((pending, state))
    # The operation that ends first is not preceded by operations that begin after its end.
    first_end = min(
        (record.returned for record in pending if record.seen), default=math.inf
    )
    for record in pending:
        after = _apply(record, state, journal)
        if (
            record.called <= first_end
            and after is not None
            and record.seen in (None, after)
            and _search(pending - {record}, after, journal, been)
        ):
            return True
    return False


def _apply(
    record: Record, state: tuple[int, int], journal: Sequence[Transition] | None
) -> tuple[int, int] | None:
    revision, position = state
    if record.operation is None:
        return state
    if journal is not None and (
        revision == len(journal) or journal[revision] is not record.operation
    ):
        return None
    return revision + 1, position_after(position, record.operation)
