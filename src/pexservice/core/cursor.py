"""
The cursor: its states, its transitions, and the state that each transition leads to.

Pure: no Twisted, no store, no clock.  Everything else in the service moves these
few values around.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pexservice.core.sequence import ORIGIN, Neighbours, Term, term_at


class Transition(Enum):
    """
    A way to move the cursor.

    @ivar code: the transition's byte in a packed journal row, so no other transition may
        ever have it.
    """

    NEXT = b"n"
    PREVIOUS = b"p"
    RESET = b"r"

    def __init__(self, code: bytes) -> None:
        # An attribute of its own: reading "value" of an Enum member takes two Python
        # calls.
        self.code = code

    @property
    def word(self) -> str:
        """
        Return the transition's name for callers: the last word of its endpoint.
        """
        return self.name.lower()


class State(NamedTuple):
    """
    A state of the cursor: its revision and its term.

    @ivar revision: how many transitions were acknowledged since the store was
        made, whatever they did.
    @ivar term: the term under the cursor.  Only its position is ever stored:
        the value follows from it.
    """

    revision: int
    term: Term

    @property
    def position(self) -> int:
        """
        Return the index n of the term under the cursor.
        """
        return self.term.position

    def __repr__(self) -> str:
        return f"<State revision={self.revision} position={self.term.position}>"


INITIAL = State(0, ORIGIN)


def state_at(revision: int, position: int) -> State:
    """
    Return the state with this revision and position; 21 ms at position 1,000,000.

    @raise ValueError: either number is negative.
    """
    if revision < 0:
        raise ValueError(f"there is no revision {revision}")
    return State(revision, term_at(position))


def follow(state: State, transition: Transition, neighbours: Neighbours) -> State:
    """
    Return the state after C{transition}.

    Each transition counts as a revision, also one that leaves the position where it is.
    """
    revision, term = state
    if transition is Transition.NEXT:
        return State(revision + 1, neighbours.forward(term))
    if transition is Transition.PREVIOUS:
        return State(revision + 1, neighbours.backward(term))
    return State(revision + 1, ORIGIN)


def follow_position(position: int, transition: Transition) -> int:
    """
    Return the position after C{transition}, without the values that L{follow} computes.
    """
    if transition is Transition.NEXT:
        return position + 1
    if transition is Transition.PREVIOUS:
        return max(position - 1, 0)
    return 0


def skip_positions(position: int, transitions: bytes) -> int:
    """
    Return the position after C{transitions}, which are the codes of L{Transition}s.

    Each code is one byte.  The transitions are counted, and followed one by one only where
    the position may have stayed at 0.
    """
    reset = transitions.rfind(Transition.RESET.code)
    if reset >= 0:
        position, transitions = 0, transitions[reset + 1 :]
    backward = transitions.count(Transition.PREVIOUS.code)
    if backward <= position:
        return position + len(transitions) - 2 * backward
    (back,) = Transition.PREVIOUS.code
    for code in transitions:
        position = max(position - 1, 0) if code == back else position + 1
    return position
