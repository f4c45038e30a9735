"""
Differences between what two versions of the service answer, wanted or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import zip_longest

from attrs import Factory, define, evolve, frozen


@frozen
class Answer:
    """
    One answer, to a request or to a command line.

    @ivar status: the status line, or C{exit status N}, or what happened instead.
    @ivar headers: in their order.
    @ivar body: the body, or the text of a command.
    """

    status: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """
        Return the value of the first header C{name}, if there is one.
        """
        return next((value for header, value in self.headers if header == name), None)

    @property
    def code(self) -> str:
        """
        Return the three digits of an HTTP status, else the whole status.
        """
        match = re.match(r"HTTP/1\.[01] (\d{3})", self.status)
        return match[1] if match else self.status


#: All that one version answers in one case.  Nothing, if the version does not have it.
Outcome = tuple[Answer, ...]


# Wanted differences.

#: Given an outcome of the last release and one of the version under test, return the
#: latter with one wanted difference taken back.
Undo = Callable[[Outcome, Outcome], Outcome]


@frozen
class Wanted:
    """
    One difference that is wanted.

    @ivar reason: the issue or the decision that names it.
    @ivar undo: takes it back.
    @ivar cases: a pattern of the cases that have it, as in L{fnmatch}.
    """

    reason: str
    undo: Undo
    cases: str = "*"


def added_lines(pattern: str) -> Undo:
    """
    Return the undo of lines that the new version has besides those of the old one.

    @param pattern: a regular expression that such a line matches as a whole.
    """

    def undo(answer: Answer) -> Answer:
        lines = answer.body.decode().split("\n")
        kept = [line for line in lines if not re.fullmatch(pattern, line)]
        return evolve(answer, body="\n".join(kept).encode())

    return lambda _, new: tuple(map(undo, new))


def codes(outcome: Outcome) -> str:
    """
    Return the statuses of an outcome, without the cursor's state.
    """
    return " ".join(
        answer.code for answer in outcome if not answer.status.startswith("rev")
    )


def added(old: Outcome, new: Outcome) -> Outcome:
    """
    Undo a case that the new version has and the old one does not have at all.
    """
    return new if old else ()


def removed(old: Outcome, new: Outcome) -> Outcome:
    """
    Undo the lack of a case that the new version does not have any more.
    """
    return new or old


def reworded(old: Outcome, new: Outcome) -> Outcome:
    """
    Undo other words of the new version.

    The statuses and headers must be the same, except for the length.
    """
    if len(old) != len(new):
        return new
    return tuple(
        evolve(
            after,
            body=before.body,
            headers=tuple(
                (name, before.header(name) or value if name == "Content-Length" else value)
                for name, value in after.headers
            ),
        )
        for before, after in zip(old, new, strict=True)
    )


def words(old_words: str, new_words: str) -> Undo:
    """
    Return the undo of C{new_words}, which the new version says for C{old_words}.
    """
    longer = len(new_words) - len(old_words)

    def undo(old: Answer, new: Answer) -> Answer:
        body = new.body.replace(new_words.encode(), old_words.encode())
        was, now = (answer.header("Content-Length") or "" for answer in (old, new))
        # Some lengths are not compared.
        known = was.isdecimal() and now.isdecimal()
        # An answer to a HEAD has the length alone.
        if body == new.body and (new.body or not known):
            return new
        if not known or int(now) - int(was) != longer:
            return evolve(new, body=body)
        headers = tuple(
            (name, was if name == "Content-Length" else value)
            for name, value in new.headers
        )
        return evolve(new, body=body, headers=headers)

    return lambda old, new: tuple(map(undo, old, new)) if len(old) == len(new) else new


# The comparison.


@define
class Comparison:
    """
    The differences that a comparison found.

    @ivar unwanted: by what differs, in words, the cases that differ so.
    @ivar seen: the wanted differences that were there.
    """

    unwanted: dict[str, list[str]] = Factory(dict)
    seen: list[Wanted] = Factory(list)

    def __str__(self) -> str:
        shown = []
        for difference, names in self.unwanted.items():
            others = f" and {len(names) - 3} others" if len(names) > 3 else ""
            shown.append(f"{', '.join(names[:3])}{others}\n{difference}")
        return "\n\n".join(shown)


def compare(
    old: Mapping[str, Outcome],
    new: Mapping[str, Outcome],
    wanted: Iterable[Wanted],
    asked: Mapping[str, object],
) -> Comparison:
    """
    Compare the outcomes of two versions, case by case.

    @param old: the outcomes of the last release, by case.
    @param new: those of the version under test.
    @param wanted: the differences that may be.
    @param asked: what was sent or run, by case, to be shown.
    """
    comparison = Comparison()
    known = list(wanted)
    examples: dict[tuple[str, ...], str] = {}
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name, ()), new.get(name, ())
        for wanted_difference in known:
            if before == after:
                break
            if fnmatchcase(name, wanted_difference.cases):
                undone = wanted_difference.undo(before, after)
                if undone != after and wanted_difference not in comparison.seen:
                    comparison.seen.append(wanted_difference)
                after = undone
        if before != after:
            lines = tuple(_tell(before, after))
            shown = f"    asked: {str(asked.get(name, ''))[:600]}"
            example = examples.setdefault(lines, "\n".join([shown, *lines]))
            comparison.unwanted.setdefault(example, []).append(name)
    return comparison


def _tell(old: Outcome, new: Outcome) -> Iterator[str]:
    """
    Yield lines that say what differs in the first answer that differs.
    """
    if codes(old) != codes(new):
        yield f"    statuses were {codes(old)!r}"
        yield f"    statuses are  {codes(new)!r}"
    nothing = Answer("no answer")
    was, now = next(
        pair for pair in zip_longest(old, new, fillvalue=nothing) if pair[0] != pair[1]
    )
    if (was.status, was.body) != (now.status, now.body):
        yield f"    was: {was.status} {was.body[:300]!r}"
        yield f"    is:  {now.status} {now.body[:300]!r}"
    yield from (f"    was: {n}: {v}" for n, v in was.headers if (n, v) not in now.headers)
    yield from (f"    is:  {n}: {v}" for n, v in now.headers if (n, v) not in was.headers)
    if sorted(was.headers) == sorted(now.headers) and was.headers != now.headers:
        yield f"    was in this order: {[name for name, _ in was.headers]}"
        yield f"    is in this order:  {[name for name, _ in now.headers]}"
