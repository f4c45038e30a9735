"""
The cursor, its transitions, and functions that apply transitions.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pexservice.core.sequence import FIRST_TERM, Term, TermCache, term_at


class Transition(Enum):
    """
    A way to move the cursor.

    @ivar code: the byte that stands for the transition in the journal.  Stores on disk
        contain this byte, so a code never changes and is never used again.
    """

    NEXT = b"n"
    PREVIOUS = b"p"
    RESET = b"r"

    def __init__(self, code: bytes) -> None:
        # Reading the "value" of an Enum member takes two Python calls, and this attribute
        # takes none.
        self.code = code

    @property
    def word(self) -> str:
        """
        Return the name that clients see: the last segment of the endpoint's path.
        """
        return self.name.lower()


class Cursor(NamedTuple):
    """
    The cursor as a store keeps it.

    @ivar revision: the number of steps since the store was created.  A step counts even if
        the position did not change.
    @ivar position: n, 0 or more.
    """

    revision: int
    position: int


class State(NamedTuple):
    """
    The cursor in the memory of a process, with the value at its position.

    @ivar revision: see L{Cursor}.
    @ivar term: the value at the position, and the value at the next position.
    """

    revision: int
    term: Term

    @property
    def position(self) -> int:
        return self.term.position

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.revision, self.term.position)

    def __repr__(self) -> str:
        return f"<State revision={self.revision} position={self.term.position}>"


INITIAL = State(0, FIRST_TERM)


def state_at(revision: int, position: int) -> State:
    """
    Return the state with this revision and position.

    Computing the term takes 21 ms at position 1,000,000.

    @raise ValueError: C{position} is negative.
    """
    return State(revision, term_at(position))


def apply(state: State, transition: Transition, cache: TermCache) -> State:
    revision, term = state
    if transition is Transition.NEXT:
        return State(revision + 1, cache.forward(term))
    if transition is Transition.PREVIOUS:
        return State(revision + 1, cache.backward(term))
    return State(revision + 1, FIRST_TERM)


def position_after(position: int, transition: Transition) -> int:
    """
    Return the position after C{transition}, without computing a term.
    """
    if transition is Transition.NEXT:
        return position + 1
    if transition is Transition.PREVIOUS:
        return max(position - 1, 0)
    return 0


def position_after_all(position: int, transitions: bytes) -> int:
    """
    Return the position after all C{transitions}, given as one code byte each.

    A store applies thousands of transitions in one call, so they are counted if possible.
    A C{previous} at position 0 does not change the position, so it must not be counted.  It
    cannot occur if C{position} is at least the number of all C{previous}.
    """
    # The transitions before the last reset do not matter.
    last_reset = transitions.rfind(Transition.RESET.code)
    if last_reset >= 0:
        position, transitions = 0, transitions[last_reset + 1 :]
    previous_count = transitions.count(Transition.PREVIOUS.code)
    if previous_count <= position:
        return position + len(transitions) - 2 * previous_count
    (previous_code,) = Transition.PREVIOUS.code
    for code in transitions:
        position = max(position - 1, 0) if code == previous_code else position + 1
    return position
