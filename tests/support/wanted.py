"""
The differences from the last release that are wanted.

A change of what clients or operators see needs an entry here, with its reason: then
L{tests.functional.test_oracle} lets the difference pass.  An entry that is not needed is
an error, too.

The names of cases begin with their group and a slash: the name of a setup of
L{tests.support.setups}, C{start}, C{help}, C{metrics}, C{openapi} or C{access log}.
The case of a difference is named in the message of the test that fails.  All ways to take
a difference back are in L{tests.support.differences}.

Some entries as they might be::

    Wanted("a new option", added, "help/* --config *"),
    Wanted("clearer help", reworded, "help/* --journal N"),
    Wanted("clearer words", words("slow down", "wait and try again")),
"""

from __future__ import annotations

import json
from importlib.metadata import version

from tests.support.differences import (
    Answer,
    Outcome,
    Wanted,
    added,
    added_lines,
    codes,
    removed,
    reworded,
    words,
)
from tests.support.installation import RELEASE

_VERSION = version("pexservice")

#: The statuses of requests that are refused before they are understood.
_REFUSALS = ("400", "413", "414", "431")


def refused_in_other_words(old: Outcome, new: Outcome) -> Outcome:
    """
    Take back the words and the representation of a refusal that ends its connection.
    """
    if len(old) != len(new) or codes(old) != codes(new):
        return new
    return tuple(
        before
        if after.code in _REFUSALS and after.header("Connection") == "close"
        else after
        for before, after in zip(old, new, strict=True)
    )


def _other_words(before: Answer, after: Answer) -> Answer:
    lines = [
        (answer.status, [line for line in answer.headers if line[0] != "Content-Length"])
        for answer in (before, after)
    ]
    bodies = before.body, after.body
    if lines[0] != lines[1] or all(bodies) != any(bodies):
        return after
    if before.header("Content-Type") == "application/problem+json" and all(bodies):
        problems = [{**json.loads(body), "detail": ""} for body in bodies]
        return before if problems[0] == problems[1] else after
    is_refusal = before.code[0] not in "123"
    is_index = after.body.startswith((b"A cursor over", b'{"endpoints": '))
    return before if is_refusal or is_index or not any(bodies) else after


def in_other_words(old: Outcome, new: Outcome) -> Outcome:
    """
    Take back the words of a problem or of the index, and the length of a body with them.
    """
    if len(old) != len(new):
        return new
    return tuple(map(_other_words, old, new))


def without_processes(old: Outcome, new: Outcome) -> Outcome:
    """
    Take back the processes that C{/livez} shows.
    """
    if len(old) != len(new):
        return new
    return tuple(
        before
        if b'"processes": [' in after.body or b"]supervisor is" in after.body
        else after
        for before, after in zip(old, new, strict=True)
    )


def without_continue(old: Outcome, new: Outcome) -> Outcome:
    """
    Put the C{100 Continue} back that is not sent when the body has begun to arrive.
    """
    others = tuple(answer for answer in old if answer.code != "100")
    return old if codes(others) == codes(new) and others == new else new


def refused_at_once(old: Outcome, new: Outcome) -> Outcome:
    """
    Take back that a request which was performed is refused.
    """
    is_refused = bool(new) and new[0].code in _REFUSALS
    return old if is_refused and old[0].code == "200" else new


WANTED: tuple[Wanted, ...] = (
    Wanted("version", words(f" {RELEASE}", f" {_VERSION}"), "help/* version"),
    Wanted("version", words(f'"{RELEASE}"', f'"{_VERSION}"'), "metrics/*_build_info"),
    Wanted(
        "0.1.0 is not upgraded any more", removed, "help/pexservice-worker --lifeline N"
    ),
    Wanted("plain words: the help of an option", reworded, "help/*"),
    Wanted("options and groups of --help that are new", added, "help/*"),
    Wanted("groups of --help with other names", removed, "help/* line: *"),
    Wanted("plain words: the reason why a start is refused", reworded, "start/*"),
    Wanted(
        "a client that floods a connection with TLS records is disconnected",
        added_lines(r'reason="flooding"}'),
        "metrics/pexservice_connections_closed_total",
    ),
    Wanted("plain words: the text of a problem, and of the index", in_other_words),
    Wanted("process ids where the Host is checked", without_processes, "*/GET /livez*"),
    Wanted("one parser: each fault has words", refused_in_other_words),
    Wanted("one parser: no 100 behind a body", without_continue),
    Wanted("RFC 9112 5.2: a folded header is refused", refused_at_once, "*folded*"),
    Wanted("a body has 1,000 chunks at most", refused_at_once, "*/attack: 1001 chunks*"),
    Wanted("the size of a chunk has 16 digits at most", refused_at_once, "*17 zeros"),
)
