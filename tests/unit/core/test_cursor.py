"""
Tests of the cursor: the state that follows each transition.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.core.cursor import (
    INITIAL,
    Transition,
    follow,
    follow_position,
    skip_positions,
    state_at,
)
from pexservice.core.sequence import Neighbours

NEXT, PREVIOUS, RESET = Transition.NEXT, Transition.PREVIOUS, Transition.RESET


def test_each_transition() -> None:
    """
    Next goes one up, previous one down, and reset to 0, and each is one revision.
    """
    state = INITIAL
    seen = []
    for transition in (NEXT, NEXT, NEXT, PREVIOUS, RESET):
        state = follow(state, transition, Neighbours())
        seen.append((state.revision, state.position, state.term.text))
    assert seen == [(1, 1, b"1"), (2, 2, b"1"), (3, 3, b"2"), (4, 2, b"1"), (5, 0, b"0")]


def test_previous_at_the_origin() -> None:
    """
    A previous at 0 stays there and counts as a revision.
    """
    state = follow(INITIAL, PREVIOUS, Neighbours())
    assert (state.revision, state.position) == (1, 0)


@given(st.lists(st.sampled_from(list(Transition))))
def test_positions_agree_with_states(transitions: list[Transition]) -> None:
    """
    Following positions alone, as a journal is replayed, ends where the states do.
    """
    state, position = INITIAL, 0
    for transition in transitions:
        state = follow(state, transition, Neighbours())
        position = follow_position(position, transition)
    assert (state.revision, state.position) == (len(transitions), position)
    rebuilt = state_at(len(transitions), position)
    assert rebuilt.term.text == state.term.text


def test_state_at_refuses_negative_numbers() -> None:
    """
    A negative revision or position is refused.
    """
    with pytest.raises(ValueError, match="revision"):
        state_at(-1, 0)
    with pytest.raises(ValueError, match="position"):
        state_at(0, -1)


def test_words() -> None:
    """
    Callers know the transitions by the last word of their endpoints.
    """
    assert [each.word for each in Transition] == ["next", "previous", "reset"]


def test_repr_has_no_value() -> None:
    """
    The repr of a state, as in a log line, has two small numbers and not the value.
    """
    assert repr(state_at(7, 100_000)) == "<State revision=7 position=100000>"


@pytest.mark.parametrize("start", [0, 1, 2, 1000])
def test_many_at_once(start: int) -> None:
    """
    Skipping any transitions leads where following them one by one does.
    """
    for length in range(7):
        for steps in itertools.product(Transition, repeat=length):
            position = start
            for step in steps:
                position = follow_position(position, step)
            assert skip_positions(start, b"".join(s.code for s in steps)) == position
