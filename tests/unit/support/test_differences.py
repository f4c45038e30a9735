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
    added_header,
    changed_header,
    changed_status,
    compare,
    instead,
    moved_ahead,
    newline_behind,
    removed,
    reworded,
    words,
)

JSON = ("Content-Type", "application/json")


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
    "a header more": (
        added_header("X", "y"),
        (OK, MOVED),
        (answer(200, b"8\n", ("X", "y"), ("Vary", "Accept")), MOVED),
        (answer(200, b"8\n", ("X", "z"), ("Vary", "Accept")), MOVED),
    ),
    "a header more, which one answer always had": (
        added_header("Vary", "Accept"),
        (OK, answer(204, b"")),
        (OK, answer(204, b"", ("Vary", "Accept"))),
        (answer(200, b"8\n"), answer(204, b"", ("Vary", "Accept"))),
    ),
    "headers that stand first": (
        moved_ahead("Connection", "Date"),
        (Answer("400", (("A", "a"), ("Date", "d"), ("B", "b"), ("Connection", "c"))),),
        (Answer("400", (("Connection", "c"), ("Date", "d"), ("A", "a"), ("B", "b"))),),
        (Answer("400", (("Connection", "c"), ("Date", "d"), ("B", "b"), ("A", "a"))),),
    ),
    "another value": (
        changed_header("Vary", "Accept", "*"),
        (OK,),
        (answer(200, b"8\n", ("Vary", "*")),),
        (answer(200, b"8\n", ("Vary", "+")),),
    ),
    "a newline": (
        newline_behind("application/json"),
        (answer(200, b"{}", JSON), OK),
        (answer(200, b"{}\n", JSON), OK),
        (answer(200, b"{}\n\n", JSON), OK),
    ),
    "another status": (
        instead("200", "403", says="not"),
        (OK, MOVED),
        (answer(403, b"not so\n"), STAYED),
        (answer(403, b"so\n"), STAYED),
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


def test_changed_status_is_accepted_only_if_both_statuses_are_as_named() -> None:
    undo = changed_status("exit status 1", "exit status 64")
    old, new = Answer("exit status 1", body=b"x"), Answer("exit status 64", body=b"y")
    assert undo((old,), (new,)) == (Answer("exit status 1", body=b"y"),)
    other = Answer("exit status 78", body=b"y")
    assert undo((old,), (other,)) == (other,)
    assert undo((old, old), (new,)) == (new,)
