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
    apply,
    position_after,
    position_after_all,
    state_at,
)
from pexservice.core.sequence import TermCache

NEXT, PREVIOUS, RESET = Transition.NEXT, Transition.PREVIOUS, Transition.RESET


def test_next_adds_one_previous_subtracts_one_but_at_0_and_reset_goes_to_0() -> None:
    state, seen = INITIAL, []
    for transition in (NEXT, NEXT, NEXT, PREVIOUS, RESET, PREVIOUS):
        state = apply(state, transition, TermCache())
        seen.append((state.position, state.term.text))
    assert seen == [(1, b"1"), (2, b"1"), (3, b"2"), (2, b"1"), (0, b"0"), (0, b"0")]
    assert state.revision == 6


@given(st.lists(st.sampled_from(list(Transition))))
def test_position_after_is_the_position_of_the_applied_state(
    transitions: list[Transition],
) -> None:
    state, position = INITIAL, 0
    for transition in transitions:
        state = apply(state, transition, TermCache())
        position = position_after(position, transition)
    assert (state.revision, state.position) == (len(transitions), position)
    rebuilt = state_at(len(transitions), position)
    assert rebuilt.term.text == state.term.text


def test_repr_of_a_state_does_not_contain_the_value() -> None:
    assert repr(state_at(7, 100_000)) == "<State revision=7 position=100000>"


@pytest.mark.parametrize("start", [0, 1, 2, 1000])
def test_position_after_all_ends_where_single_transitions_end(start: int) -> None:
    for length in range(7):
        for steps in itertools.product(Transition, repeat=length):
            position = start
            for step in steps:
                position = position_after(position, step)
            assert position_after_all(start, b"".join(s.code for s in steps)) == position
