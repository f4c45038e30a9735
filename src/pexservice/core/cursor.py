"""
The cursor: what a state is, which transitions there are, and what follows what.

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

    @ivar code: its byte in a packed journal row, so it must never be given to another
        transition.
    """

    NEXT = b"n"
    PREVIOUS = b"p"
    RESET = b"r"

    def __init__(self, code: bytes) -> None:
        # An attribute of its own: to ask for "value" is two calls of Python's.
        self.code = code

    @property
    def word(self) -> str:
        """
        The transition's name to callers: the last word of its endpoint.
        """
        return self.name.lower()


class State(NamedTuple):
    """
    Where the cursor stands.

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
        The index n of the term under the cursor.
        """
        return self.term.position

    def __repr__(self) -> str:
        return f"<State revision={self.revision} position={self.term.position}>"


INITIAL = State(0, ORIGIN)


def state_at(revision: int, position: int) -> State:
    """
    The state that two stored numbers stand for; 21 ms at position 1,000,000.

    @raise ValueError: either number is negative.
    """
    if revision < 0:
        raise ValueError(f"there is no revision {revision}")
    return State(revision, term_at(position))


def follow(state: State, transition: Transition, neighbours: Neighbours) -> State:
    """
    The state after C{transition}.  Each transition counts as a revision, also
    one that leaves the position where it is.
    """
    revision, term = state
    if transition is Transition.NEXT:
        return State(revision + 1, neighbours.forward(term))
    if transition is Transition.PREVIOUS:
        return State(revision + 1, neighbours.backward(term))
    return State(revision + 1, ORIGIN)


def follow_position(position: int, transition: Transition) -> int:
    """
    The position after C{transition}: what L{follow} does, without the values.
    """
    if transition is Transition.NEXT:
        return position + 1
    if transition is Transition.PREVIOUS:
        return max(position - 1, 0)
    return 0


def skip_positions(position: int, transitions: bytes) -> int:
    """
    Return the position after many transitions, one byte each: their L{Transition}'s
    code.  They are counted, and followed one by one only where the position may have
    stayed at 0.
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
