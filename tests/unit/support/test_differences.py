"""
The differences that the oracle finds, and those that it lets pass.
"""

from __future__ import annotations

import pytest

from tests.support.differences import (
    Answer,
    Outcome,
    Undo,
    Wanted,
    added,
    added_lines,
    compare,
    removed,
    reworded,
    words,
)


def answer(code: int, body: bytes, *headers: tuple[str, str]) -> Answer:
    """
    Return an answer with a C{Content-Length}.
    """
    length = ("Content-Length", str(len(body)))
    return Answer(f"HTTP/1.1 {code} Reason", (*headers, length), body)


OK = answer(200, b"8\n", ("Vary", "Accept"))
MOVED = Answer("revisions moved: 1")
STAYED = Answer("revisions moved: 0")

#: A way to take a difference back, the outcomes before and after it, and an outcome after
#: it that has another difference, too.
UNDOS: dict[str, tuple[Undo, Outcome, Outcome, Outcome]] = {
    "a line more": (
        added_lines("x+"),
        (Answer("200", body=b"8\n"),),
        (Answer("200", body=b"xx\n8\n"),),
        (Answer("200", body=b"xy\n8\n"),),
    ),
    "something more": (added, (), (OK,), ()),
    "something less": (removed, (OK,), (), (MOVED,)),
    "other words": (
        reworded,
        (OK,),
        (answer(200, b"nine\n", ("Vary", "Accept")),),
        (MOVED,),
    ),
    "a word": (
        words("two", "three"),
        (answer(404, b"one two\n"), Answer("", (("Content-Length", "8"),))),
        (answer(404, b"one three\n"), Answer("", (("Content-Length", "10"),))),
        (answer(404, b"one three\n"), Answer("", (("Content-Length", "9"),))),
    ),
}


@pytest.mark.parametrize(("undo", "old", "new", "other"), UNDOS.values(), ids=UNDOS)
def test_wanted_difference_passes_only_for_its_case_and_alone(
    undo: Undo, old: Outcome, new: Outcome, other: Outcome
) -> None:
    wanted = Wanted("a reason", undo, "group/*")

    def unwanted(name: str, after: Outcome, *known: Wanted) -> list[str]:
        comparison = compare({name: old}, {name: after}, known, {})
        assert comparison.seen == ([wanted] if known and name == "group/a" else [])
        return [name for names in comparison.unwanted.values() for name in names]

    assert unwanted("group/a", new, wanted) == []
    assert unwanted("group/a", new) == ["group/a"]
    assert unwanted("other/a", new, wanted) == ["other/a"]
    comparison = compare({"group/a": old}, {"group/a": other}, [wanted], {})
    assert bool(comparison.unwanted) is (other != old)


def test_comparison_shows_request_old_and_new_response() -> None:
    """
    Once for all cases that differ in the same way.
    """
    new = answer(404, b"8\n", ("Vary", "Accept"))
    names = [f"case {number}" for number in range(5)]
    comparison = compare(
        dict.fromkeys(names, (OK,)), dict.fromkeys(names, (new,)), [], {names[0]: b"GET /"}
    )
    assert str(comparison) == (
        "case 0, case 1, case 2 and 2 others\n"
        "    asked: b'GET /'\n"
        "    statuses were '200'\n"
        "    statuses are  '404'\n"
        "    was: HTTP/1.1 200 Reason b'8\\n'\n"
        "    is:  HTTP/1.1 404 Reason b'8\\n'"
    )


def test_another_order_of_headers_is_a_difference() -> None:
    first_header, second_header = ("A", "b"), ("C", "d")
    comparison = compare(
        {"a": (answer(200, b"", first_header, second_header),)},
        {"a": (answer(200, b"", second_header, first_header),)},
        [],
        {},
    )
    assert "is in this order:  ['C', 'A', 'Content-Length']" in str(comparison)
