"""
Attacks: how they are made, sent and judged.

- Each attack gets a status or a close, never silence, and never a 5xx of the service.
- A refused request does not move the cursor, and its answer is the connection's last: the
  bytes behind it, in the same packet or later, are never executed.
- The cursor moves exactly as often as the answers say.
"""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

from attrs import frozen

from tests.support.daemon import PATIENCE, read_all

#: The step that is sent behind each attack, and must be made or must not.
BEHIND = b"POST /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: Statuses after which the two sides may differ about where a request begins.
REFUSALS = frozenset({400, 408, 413, 414, 431})


@frozen(kw_only=True)
class Attack:
    """
    Raw bytes to send, and what must come back.

    @ivar rule: the source that says what must come back, and its words.
    @ivar statuses: for each final answer, the statuses that are allowed.
    @ivar ends: the connection ends with the last of these answers; otherwise C{behind} is
        answered too.
    @ivar behind: the bytes that are sent behind the attack.
    @ivar moves: how many steps of the attack must be made.
    @ivar hangs: the attack is not whole, and nothing is sent behind it.
    @ivar leaves: the client closes its half of the connection.
    """

    name: str
    rule: str
    sent: bytes
    statuses: Sequence[frozenset[int]]
    ends: bool = False
    behind: bytes = BEHIND
    moves: int = 0
    hangs: bool = False
    leaves: bool = False

    @property
    def understood(self) -> bool:
        """
        Return whether the attack ends with an answer that is no refusal.
        """
        return self.ends and not self.hangs and not self.statuses[-1] & REFUSALS


@frozen
class Answer:
    """
    One response.
    """

    status: int
    head: bytes
    body: bytes

    @property
    def revision(self) -> int | None:
        """
        Return the cursor's revision, if the answer names it.
        """
        match = re.search(rb"\r\nPex-Revision: (\d+)", self.head)
        return None if match is None else int(match[1])

    @property
    def last(self) -> bool:
        """
        Return whether the answer says that the connection ends.
        """
        return re.search(rb"(?i)\r\nConnection: close(\r\n|$)", self.head) is not None


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """
    Return a request with a Host.
    """
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", body])


def step(*headers: bytes, body: bytes = b"") -> bytes:
    """
    Return a step that is right except for C{headers} and C{body}.
    """
    return request(b"POST /next HTTP/1.1", *headers, body=body)


def attacks(
    rule: str, statuses: Sequence[int | set[int]], cases: Mapping[str, bytes], **more: Any
) -> list[Attack]:
    """
    Return attacks of one rule.

    @param more: the other attributes of each L{Attack}.
    """
    allowed = [
        frozenset({status} if isinstance(status, int) else status) for status in statuses
    ]
    return [
        Attack(name=name, rule=rule, sent=sent, statuses=allowed, **more)
        for name, sent in cases.items()
    ]


def refused(rule: str, status: int | set[int], cases: Mapping[str, bytes]) -> list[Attack]:
    """
    Return attacks that are answered with a status that ends the connection.
    """
    return attacks(rule, [status], cases, ends=True)


def answered(
    rule: str,
    status: int,
    cases: Mapping[str, bytes],
    *,
    moves: int = 0,
    ends: bool = False,
) -> list[Attack]:
    """
    Return attacks that are understood, whatever their answers are.
    """
    return attacks(rule, [status], cases, moves=moves, ends=ends)


def hanging(rule: str, cases: Mapping[str, bytes]) -> list[Attack]:
    """
    Return attacks that are not whole: each gets 408 when its time is over.
    """
    return attacks(rule, [408], cases, ends=True, hangs=True)


def left(rule: str, statuses: Sequence[int], cases: Mapping[str, bytes]) -> list[Attack]:
    """
    Return attacks behind which the client closes its half of the connection.
    """
    moves = statuses.count(200)
    return attacks(rule, statuses, cases, ends=True, moves=moves, hangs=True, leaves=True)


def split(received: bytes, *, bodiless: bool = False) -> list[Answer]:
    """
    Return the final answers in C{received}.

    @param bodiless: the first answer is to a HEAD.
    @raise AssertionError: these are not answers.
    """
    answers: list[Answer] = []
    while received:
        if received.startswith(b"<html>"):
            # nginx answers a request without a version with a body only, and ends.
            break
        head, end, rest = received.partition(b"\r\n\r\n")
        line = re.match(rb"HTTP/1\.[01] (\d{3}) [ -~]*(\r\n|$)", head)
        assert end, received
        assert line is not None, received
        status = int(line[1])
        if status // 100 == 1:
            received = rest
            continue
        length = re.search(rb"(?i)\r\nContent-Length: (\d+)(\r\n|$)", head)
        empty = status in (204, 304) or (bodiless and not answers)
        assert empty or length is not None, head
        size = 0 if empty or length is None else int(length[1])
        assert len(rest) >= size, received
        answers.append(Answer(status, head, rest[:size]))
        received = rest[size:]
    return answers


def exchange(port: int, attack: Attack, pieces: Iterable[bytes]) -> list[Answer]:
    """
    Send an attack in pieces, and a step more after its end; return all answers.

    @raise AssertionError: no response arrived in time.
    """
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for number, piece in enumerate(pieces):
                if number:
                    # So that most pieces arrive by themselves; nothing depends on it.
                    time.sleep(0.0005)
                connection.sendall(piece)
            if attack.leaves:
                connection.shutdown(socket.SHUT_WR)
        try:
            received = read_all(connection)
        except TimeoutError:
            raise AssertionError("silence") from None
        if not attack.leaves:
            # The last answer ended the connection: a client that sends on gets nothing.
            with suppress(OSError):
                connection.sendall(BEHIND)
                connection.shutdown(socket.SHUT_WR)
                received += read_all(connection)
    return split(received, bodiless=attack.sent.startswith(b"HEAD "))


def whole(attack: Attack) -> list[bytes]:
    """
    Return an attack, and the bytes behind it, in one piece.
    """
    return [attack.sent if attack.hangs else attack.sent + attack.behind]


def in_pieces(attack: Attack, chance: random.Random, most: int = 6) -> list[bytes]:
    """
    Return an attack, and the bytes behind it, cut at some places.
    """
    (sent,) = whole(attack)
    # A client that sends on behind its own last request may have the answer overtaken by
    # a reset, as with every server that does not wait for bytes it does not expect.
    most_cut = len(attack.sent) if attack.understood else len(sent)
    cuts = sorted(chance.randint(0, most_cut) for _ in range(chance.randint(1, most)))
    edges = [0, *cuts, len(sent)]
    if attack.understood:
        edges = [edge for edge in edges if edge != len(attack.sent)]
    pieces = [sent[a:b] for a, b in pairwise(edges)]
    return [piece for piece in pieces if piece]


def judge(attack: Attack, answers: Sequence[Answer]) -> None:
    """
    Check the answers of the service itself.

    @raise AssertionError: they are not what must come back.
    """
    got = [answer.status for answer in answers]
    expected = [*attack.statuses, *([] if attack.ends else [frozenset({200})])]
    assert len(got) == len(expected), got
    for status, allowed in zip(got, expected, strict=True):
        assert status in allowed, got
        assert status < 500, got
    for earlier_answer in answers[:-1]:
        assert not earlier_answer.last, got
    if answers and not attack.leaves:
        assert answers[-1].last, answers[-1].head
    for seen_answer in answers:
        if seen_answer.status in REFUSALS and seen_answer.last and seen_answer.body:
            assert seen_answer.body.index(b"\n") == len(seen_answer.body) - 1, (
                seen_answer.body
            )


def judge_nginx(answers: Sequence[Answer]) -> None:
    """
    Check answers through nginx, which has its own rules and may answer by itself.
    """
    got = [answer.status for answer in answers]
    # With these nginx would say that the service left it without an answer.
    assert not {500, 502, 503, 504} & {*got}, got


def judge_moves(answers: Iterable[Answer], before: int, after: int) -> None:
    """
    Check that every move of the cursor was answered, and that each step was made once.

    The response may have passed through nginx.
    """
    revisions = {answer.revision for answer in answers if answer.revision is not None}
    steps = sorted(revision for revision in revisions if revision > before)
    assert steps == [*range(before + 1, after + 1)], (before, steps, after)


@frozen
class Front:
    """
    A port that attacks are sent to.

    @ivar revision: asks the service itself where the cursor is.
    @ivar nginx: nginx listens there, with the service behind.
    """

    port: int
    revision: Callable[[], int]
    nginx: bool = False

    def try_all(
        self, attacks: Sequence[Attack], cut: Callable[[Attack], list[bytes]] = whole
    ) -> list[str]:
        """
        Try attacks one after the other.

        @return: what went wrong.
        """
        return [
            trouble for attack in attacks for trouble in self.try_at_once([attack], cut)
        ]

    def try_at_once(
        self, attacks: Sequence[Attack], cut: Callable[[Attack], list[bytes]] = whole
    ) -> list[str]:
        """
        Try attacks at the same time, such as those that take long.
        """
        if self.nginx:
            # nginx takes a client that closes its half for one that is gone, and a step
            # that it has passed on by then is made and not answered.
            attacks = [attack for attack in attacks if not (attack.leaves and attack.moves)]
        before = self.revision()
        wrong: list[str] = []
        come: list[Answer] = []

        def try_attack(attack: Attack) -> None:
            pieces = cut(attack)
            try:
                answers = exchange(self.port, attack, pieces)
                come.extend(answers)
                if self.nginx:
                    judge_nginx(answers)
                else:
                    judge(attack, answers)
            except (AssertionError, OSError) as error:
                sizes = [*map(len, pieces)]
                wrong.append(f"{attack.name} ({attack.rule}), {sizes} bytes: {error!r}")

        if len(attacks) > 1:
            with ThreadPoolExecutor(len(attacks)) as threads:
                list(threads.map(try_attack, attacks))
        else:
            list(map(try_attack, attacks))
        after = self.revision()
        due = sum(attack.moves + (not attack.ends) for attack in attacks)
        try:
            assert self.nginx or after - before == due, (before, due, after)
            judge_moves(come, before, after)
        except AssertionError as error:
            names = ", ".join(attack.name for attack in attacks)
            wrong.append(f"{names}: the cursor: {error!r}")
        return wrong
