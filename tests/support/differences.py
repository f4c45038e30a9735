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


def _each(change: Callable[[Answer], Answer]) -> Undo:
    return lambda _, new: tuple(map(change, new))


def added_header(name: str, value: str) -> Undo:
    """
    Return the undo of a header that the new version sends and the old one does not.
    """
    extra = (name, value)

    def undo(old: Outcome, new: Outcome) -> Outcome:
        if any(extra in answer.headers for answer in old) and len(old) == len(new):
            # Some answers always had the header.
            return tuple(
                after if extra in before.headers else _without(after, extra)
                for before, after in zip(old, new, strict=True)
            )
        return tuple(_without(answer, extra) for answer in new)

    return undo


def _without(answer: Answer, header: tuple[str, str]) -> Answer:
    return evolve(answer, headers=tuple(h for h in answer.headers if h != header))


def changed_header(name: str, old_value: str, new_value: str) -> Undo:
    """
    Return the undo of another value that the new version sends in a header.
    """
    return _each(
        lambda answer: evolve(
            answer,
            headers=tuple(
                (name, old_value) if header == (name, new_value) else header
                for header in answer.headers
            ),
        )
    )


def reordered(old: Outcome, new: Outcome) -> Outcome:
    """
    Undo another order in which the new version sends the same headers.
    """
    if len(old) != len(new):
        return new
    return tuple(
        evolve(after, headers=before.headers)
        if sorted(before.headers) == sorted(after.headers)
        else after
        for before, after in zip(old, new, strict=True)
    )


def moved_ahead(*names: str) -> Undo:
    """
    Return the undo of headers that the new version sends first, in this order.

    It applies to answers that have all of these headers.  The other headers are in the
    order that they had.
    """

    def undo(before: Answer, after: Answer) -> Answer:
        first = [(name, before.header(name) or "") for name in names]
        others = [header for header in before.headers if header not in first]
        moved = after.headers == (*first, *others)
        return evolve(after, headers=before.headers) if moved else after

    def compared(old: Outcome, new: Outcome) -> Outcome:
        if len(old) != len(new):
            return new
        return tuple(map(undo, old, new))

    return compared


def added_lines(pattern: str) -> Undo:
    """
    Return the undo of lines that the new version has besides those of the old one.

    @param pattern: a regular expression that such a line matches as a whole.
    """

    def undo(answer: Answer) -> Answer:
        lines = answer.body.decode().split("\n")
        kept = [line for line in lines if not re.fullmatch(pattern, line)]
        return evolve(answer, body="\n".join(kept).encode())

    return _each(undo)


def newline_behind(media_type: str) -> Undo:
    """
    Return the undo of the newline with which the new version ends bodies of one media type.
    """

    def undo(answer: Answer) -> Answer:
        kind, length = answer.header("Content-Type"), answer.header("Content-Length")
        if kind != media_type or not length:
            return answer
        if answer.body and not answer.body.endswith(b"\n"):
            return answer
        shorter = tuple(
            # Some lengths are not compared.
            (
                name,
                str(int(value) - 1)
                if name == "Content-Length" and value.isdecimal()
                else value,
            )
            for name, value in answer.headers
        )
        return evolve(answer, headers=shorter, body=answer.body.removesuffix(b"\n"))

    def compared(old: Outcome, new: Outcome) -> Outcome:
        if len(old) != len(new):
            return tuple(map(undo, new))
        # Some bodies always had the newline.
        return tuple(
            after
            if before.body.endswith(b"\n")
            or (before.header("Content-Length") or "")
            == (after.header("Content-Length") or "?")
            != "..."
            else undo(after)
            for before, after in zip(old, new, strict=True)
        )

    return compared


def instead(old_codes: str, new_codes: str, says: str = "") -> Undo:
    """
    Return the undo of other statuses with which the new version answers a whole case.

    @param old_codes: the statuses of the old answers in their order, separated by blanks,
        as C{"200 200"}; a pattern as in L{fnmatch}.
    @param new_codes: the same of the new ones.
    @param says: a regular expression that is found in one of the new bodies.
    """

    def undo(old: Outcome, new: Outcome) -> Outcome:
        fits = (
            fnmatchcase(codes(old), old_codes)
            and fnmatchcase(codes(new), new_codes)
            and any(re.search(says.encode(), answer.body) for answer in new)
        )
        return old if fits else new

    return undo


def changed_status(old_status: str, new_status: str) -> Undo:
    """
    Return the undo of another status with which the new version answers or ends.

    All else is as before.
    """

    def undo(old: Answer, new: Answer) -> Answer:
        changed = (old.status, new.status) == (old_status, new_status)
        return evolve(new, status=old_status) if changed else new

    return lambda old, new: tuple(map(undo, old, new)) if len(old) == len(new) else new


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
