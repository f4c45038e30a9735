"""
Raw attacks: how they are built and sent, and how their responses are checked.

- Each attack gets a response or the end of its connection, and never a 5xx of the service.
- A refused request makes no step, and its response is the last one of the connection: the
  bytes after it, in the same packet or later, are never executed.
- The number of steps agrees with the responses.
- No response contains a version, a path or a traceback.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from attrs import frozen

from tests.support.chance import Chance
from tests.support.daemon import TIMEOUT_SECONDS, read_all

#: The step that is sent after each attack, and must be made or must not be made.
FOLLOWING_STEP = b"POST /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: After these statuses, the client and the service may disagree about where the next
#: request begins.
REFUSALS = frozenset({400, 408, 413, 414, 431})

#: At how many places an attack is cut at most.
MAX_CUTS = 6

#: What no response may contain.
_SECRETS = re.compile(
    "|".join(
        re.escape(secret)
        for secret in (
            *(f"{tempfile.gettempdir()}/", sys.prefix, "site-packages", "Traceback"),
            *('File "', "Python/", "twisted", version("twisted")),
            *("klein", version("klein"), "werkzeug"),
        )
    ).encode(),
    re.IGNORECASE,
)


@frozen(kw_only=True)
class Attack:
    """
    Raw bytes to send, and the responses that are allowed.

    @ivar rule: the source of the rule, and the rule.
    @ivar statuses: the status of each final response.  The service must make a step for
        each 200.
    @ivar closes: the service closes the connection after these responses; otherwise
        L{FOLLOWING_STEP} gets a response too.
    @ivar is_incomplete: the request has no end, and nothing is sent after it.
    @ivar half_closes: the client closes its half of the connection after the attack.
    """

    name: str
    rule: str
    sent: bytes
    statuses: Sequence[int]
    closes: bool = False
    is_incomplete: bool = False
    half_closes: bool = False

    @property
    def steps(self) -> int:
        return self.statuses.count(200)

    @property
    def is_understood(self) -> bool:
        """
        Return whether the service parses the attack and then closes the connection.
        """
        return self.closes and not self.is_incomplete and self.statuses[-1] not in REFUSALS


#: Requests by name, by a rule of an RFC and the status of each of their responses.
Rules = Mapping[tuple[str, int | tuple[int, ...]], Mapping[str, bytes]]


@frozen
class Response:
    status: int
    head: bytes
    body: bytes

    @property
    def revision(self) -> int | None:
        """
        Return the revision in the response, if there is one.
        """
        match = re.search(rb"\r\nPex-Revision: (\d+)", self.head)
        return None if match is None else int(match[1])

    @property
    def is_last(self) -> bool:
        """
        Return whether the response announces the end of the connection.
        """
        return re.search(rb"(?i)\r\nConnection: close(\r\n|$)", self.head) is not None


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """
    Return a request with a Host.
    """
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", body])


def step(*headers: bytes, body: bytes = b"") -> bytes:
    """
    Return a step that is valid except for C{headers} and C{body}.
    """
    return request(b"POST /next HTTP/1.1", *headers, body=body)


def get(target: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return request(b"GET " + target + b" HTTP/1.1", *headers, body=body)


def each(build: Callable[[bytes], bytes], *values: bytes) -> dict[str, bytes]:
    """
    Return a request for each value, by the name of the function and the value's beginning.
    """
    return {f"{build.__name__} {value!r:.60}": build(value) for value in values}


def attacks(rules: Rules, *, closes: bool = False, **more: Any) -> list[Attack]:
    """
    Return the attacks that test some rules.

    @param closes: the service closes each connection.  Otherwise it closes those with a
        request of HTTP/1.0.
    @param more: the other attributes of each L{Attack}.
    """
    return [
        Attack(
            name=name,
            rule=rule,
            sent=sent,
            statuses=(statuses,) if isinstance(statuses, int) else statuses,
            closes=closes or sent.partition(b"\r\n")[0].endswith(b"HTTP/1.0"),
            **more,
        )
        for (rule, statuses), cases in rules.items()
        for name, sent in cases.items()
    ]


def parse_responses(received: bytes, *, bodiless: bool = False) -> list[Response]:
    """
    Return the final responses in C{received}.

    @param bodiless: the first response is to a HEAD.
    @raise AssertionError: C{received} has something else.
    """
    responses: list[Response] = []
    while received:
        if received.startswith(b"<html>"):
            # To a request without a version, nginx sends only a body, and closes.
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
        empty = status in (204, 304) or (bodiless and not responses)
        assert empty or length is not None, head
        size = 0 if empty or length is None else int(length[1])
        assert len(rest) >= size, received
        responses.append(Response(status, head, rest[:size]))
        received = rest[size:]
    return responses


def exchange(port: int, attack: Attack, pieces: Iterable[bytes]) -> list[Response]:
    """
    Send an attack in pieces, and one more step after the end; return all responses.

    @raise AssertionError: no response arrived in time.
    """
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for number, piece in enumerate(pieces):
                if number:
                    # This makes most pieces arrive separately; no check depends on it.
                    time.sleep(0.0005)
                connection.sendall(piece)
            if attack.half_closes:
                connection.shutdown(socket.SHUT_WR)
        try:
            received = read_all(connection)
        except TimeoutError:
            raise AssertionError("no response") from None
        if not attack.half_closes:
            # After the last response, another request must get no response.
            with suppress(OSError):
                connection.sendall(FOLLOWING_STEP)
                connection.shutdown(socket.SHUT_WR)
                received += read_all(connection)
    return parse_responses(received, bodiless=attack.sent.startswith(b"HEAD "))


def in_one_piece(attack: Attack) -> list[bytes]:
    """
    Return an attack and the bytes after it, in one piece.
    """
    return [attack.sent if attack.is_incomplete else attack.sent + FOLLOWING_STEP]


def in_pieces(attack: Attack, chance: Chance) -> list[bytes]:
    """
    Return an attack and the bytes after it, cut at random places.
    """
    if attack.is_understood:
        # If a client sends more bytes after its own last request, a reset may overtake the
        # response.  This is so with every server that does not wait for unexpected bytes.
        *pieces, last = chance.pieces(attack.sent, MAX_CUTS)
        return [*pieces, last + FOLLOWING_STEP]
    (sent,) = in_one_piece(attack)
    return chance.pieces(sent, MAX_CUTS)


def check_responses(attack: Attack, responses: Sequence[Response]) -> None:
    """
    Check the responses of the service itself.

    @raise AssertionError: they are not the allowed ones.
    """
    statuses = [response.status for response in responses]
    assert statuses == [*attack.statuses, *([] if attack.closes else [200])]
    assert not any(response.is_last for response in responses[:-1]), statuses
    if responses and not attack.half_closes:
        assert responses[-1].is_last, responses[-1].head
    for response in responses:
        assert not _SECRETS.search(response.head + response.body), response
        if response.status in REFUSALS and response.is_last and response.body:
            assert response.body.index(b"\n") == len(response.body) - 1, response.body


def check_revisions(responses: Iterable[Response], before: int, after: int) -> None:
    """
    Check that each step was made once and had a response, perhaps through nginx.
    """
    revisions = {
        response.revision for response in responses if response.revision is not None
    }
    steps = sorted(revision for revision in revisions if revision > before)
    assert steps == [*range(before + 1, after + 1)], (before, steps, after)


@frozen
class Front:
    """
    A port that attacks are sent to.

    @ivar revision: asks the service itself for the revision.
    @ivar nginx: whether nginx listens on the port, and passes the requests to the service.
    """

    port: int
    revision: Callable[[], int]
    nginx: bool = False

    def try_all(
        self, attacks: Sequence[Attack], cut: Callable[[Attack], list[bytes]] = in_one_piece
    ) -> list[str]:
        """
        Try attacks one after the other, and return what went wrong.
        """
        failures, before = [], self.revision()
        for attack in attacks:
            failures_of_attack, before = self._try([attack], cut, before)
            failures += failures_of_attack
        return failures

    def try_at_once(self, attacks: Sequence[Attack]) -> list[str]:
        """
        Try attacks at the same time, because each of them takes long.
        """
        failures, _ = self._try(attacks, in_one_piece, self.revision())
        return failures

    def _try(
        self, attacks: Sequence[Attack], cut: Callable[[Attack], list[bytes]], before: int
    ) -> tuple[list[str], int]:
        """
        Try attacks at the same time.

        @param before: the revision of the cursor.
        @return: what went wrong, and the revision afterwards.
        """
        if self.nginx:
            # If a client half-closes, nginx drops the connection.  A step that nginx has
            # already passed on is then made without a response.
            attacks = [
                attack for attack in attacks if not (attack.half_closes and attack.steps)
            ]
        failures: list[str] = []
        all_responses: list[Response] = []

        def try_attack(attack: Attack) -> None:
            pieces = cut(attack)
            try:
                responses = exchange(self.port, attack, pieces)
                all_responses.extend(responses)
                if self.nginx:
                    # nginx has its own rules and responses.  It sends these statuses if the
                    # service sent no response.
                    statuses = {response.status for response in responses}
                    assert not {500, 502, 503, 504} & statuses, statuses
                else:
                    check_responses(attack, responses)
            except (AssertionError, OSError) as error:
                sizes = [*map(len, pieces)]
                failures.append(f"{attack.name} ({attack.rule}), {sizes} bytes: {error!r}")

        with ThreadPoolExecutor(max(1, len(attacks))) as threads:
            list(threads.map(try_attack, attacks))
        after = self.revision()
        expected_steps = sum(attack.steps + (not attack.closes) for attack in attacks)
        try:
            assert self.nginx or after - before == expected_steps, (before, after)
            check_revisions(all_responses, before, after)
        except AssertionError as error:
            names = ", ".join(attack.name for attack in attacks)
            failures.append(f"{names}: the cursor: {error!r}")
        return failures, after
