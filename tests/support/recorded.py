"""
The responses of version 1.0.0 in 20,000 generated conversations.

C{tests/nets/responses.txt} has one line for each seed of L{tests.support.conversations}.
The line has the status and a digest of each response.  Its last word says whether the
connection was closed, and has a digest of the access log.

The digest of a response covers its headers in any order, and the body of a response about
the cursor.  It does not cover the date, the reason phrase (which depends on the version of
Python), the texts of problems and documents, and the headers that depend on these texts.

C{python -m tests.support.recorded SEED ...} shows conversations.  To see the responses of
the recorded version, show the conversation in a checkout of that version.  Add a difference
that is right to L{ACCEPTED}, with the reason.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from attrs import frozen

from tests.support.conversations import Conversation, conversation
from tests.support.seam import Exchange, converse

RECORD = Path(__file__).parents[1] / "nets" / "responses.txt"

CONVERSATIONS = 20_000

_NOT_COVERED = (b"Content-Security-Policy:", b"Transfer-Encoding:")
_ABOUT_WORDS = (b"Content-Length:", b"ETag:")
_LENGTH_IN_LOG = re.compile(rb'(" \d{3}) (?:\d+|-) ')


@frozen
class Summary:
    """
    The summary of a conversation, as in the record.

    @ivar responses: status and digest of each response, such as C{200:a1b2}.
    @ivar end: C{closed:DIGEST} or C{open:DIGEST}, with a digest of the access log.
    """

    responses: tuple[str, ...]
    end: str

    @classmethod
    def parse(cls, line: str) -> Summary:
        """
        Return the summary in a line of the record.
        """
        *responses, end = line.split()
        return cls(tuple(responses), end)

    def __str__(self) -> str:
        return " ".join([*self.responses, self.end])

    @property
    def statuses(self) -> tuple[str, ...]:
        return tuple(response.partition(":")[0] for response in self.responses)

    @property
    def final(self) -> list[str]:
        """
        The responses except C{100 Continue}.
        """
        return [response for response in self.responses if not response.startswith("100:")]

    @property
    def last_status(self) -> str:
        """
        The status of the last response, or C{""} if there is none.
        """
        return self.statuses[-1] if self.responses else ""

    @property
    def is_closed(self) -> bool:
        return self.end.startswith("closed")


# Digests.


def summary(exchange: Exchange) -> Summary:
    """
    Return the summary of C{exchange}.
    """
    lines = [_LENGTH_IN_LOG.sub(rb"\1 ", line) for line in exchange.log_lines]
    return Summary(
        tuple(_digest_of_response(head, body) for head, body in split(exchange.received)),
        f"{'closed' if exchange.closed else 'open'}:{_digest(*lines)}",
    )


def split(received: bytes) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield the head and the body of each response.

    A response to C{HEAD} has no body, whatever its C{Content-Length} says: the next
    response follows at once, and no body begins like one.
    """
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
        bodiless = re.match(rb"HTTP/1\.. (?:1|204|304)", head)
        if bodiless or re.match(rb"HTTP/1\.[01] \d{3} ", rest):
            size = 0
        else:
            size = len(rest) if length is None else int(length[1])
        yield head, rest[:size]
        received = rest[size:]


def _digest_of_response(head: bytes, body: bytes) -> str:
    status_line, *headers = head.split(b"\r\n")
    version, status = status_line.decode().split(" ")[:2]
    about_cursor = any(header.startswith(b"Pex-Revision:") for header in headers)
    is_value = about_cursor and status < "400"
    follows_from_words = _NOT_COVERED if is_value else _NOT_COVERED + _ABOUT_WORDS
    kept = [header for header in headers if not header.startswith(follows_from_words)]
    # The text of a successful health check is part of the contract.
    shown = body if is_value or body == b"ok\n" else b""
    return f"{status}:{_digest(version.encode(), *sorted(kept), shown)}"


def _digest(*parts: bytes) -> str:
    return sha256(b"\n".join(parts)).hexdigest()[:4]


# Differences.


#: Returns whether a difference is of a certain kind, given the conversation, the recorded
#: summary and the present summary.
Explains = Callable[[Conversation, Summary, Summary], bool]


def _ends_with(status: str, pattern: bytes) -> Explains:
    """
    Return a function that accepts the recorded responses followed by one with C{status}.

    @param pattern: the conversation must match this.
    """
    search = re.compile(pattern).search

    def explains(held: Conversation, recorded: Summary, present: Summary) -> bool:
        *before, last = present.responses or ("",)
        return (
            search(held.sent) is not None
            and last.startswith(f"{status}:")
            and present.is_closed
            and tuple(before) == recorded.responses[: len(before)]
        )

    return explains


def _waits(held: Conversation, recorded: Summary, present: Summary) -> bool:
    """
    Accept that a refusal is missing because the refused head is incomplete.
    """
    unfinished = held.sent.rpartition(b"\r\n\r\n")[2]
    return (
        bool(unfinished)
        and recorded.responses[:-1] == present.responses
        and recorded.last_status in {"400", "414", "431"}
    )


def _no_continue(held: Conversation, recorded: Summary, present: Summary) -> bool:
    """
    Accept a missing C{100 Continue}.
    """
    return b"100-continue" in held.sent and recorded.final == present.final


def _refused_by_all_lines(_: Conversation, recorded: Summary, present: Summary) -> bool:
    """
    Accept another refusal at the end of a connection.

    Its representation and its log line may differ.  If a head has several faults, its
    status may differ too.
    """
    refusals = {"400", "413", "414", "429", "431"}
    return (
        recorded.responses[:-1] == present.responses[:-1]
        and recorded.last_status in refusals
        and present.last_status in refusals
        and present.is_closed
        and recorded.is_closed
    )


def _host_of_target(held: Conversation, recorded: Summary, present: Summary) -> bool:
    """
    Accept another outcome where the C{Host} header or the origin was refused.
    """
    first, other = recorded.final, present.final
    return (
        re.search(rb"(?i) https?://", held.sent) is not None
        and len(first) == len(other)
        and all(
            was == is_now or was.startswith(("403:", "421:"))
            for was, is_now in zip(first, other, strict=True)
        )
    )


def _refused_earlier(_: Conversation, recorded: Summary, present: Summary) -> bool:
    """
    Accept that a body is refused because its chunks announce too many bytes together.
    """
    *before, last = present.responses or ("",)
    return (
        last.startswith("413:")
        and tuple(before) == recorded.responses
        and not recorded.is_closed
    )


#: The kinds of differences from the record that are right, by the rule of the standard.
ACCEPTED: dict[str, Explains] = {
    "RFC 9112 5.2: a server must refuse a folded header with 400, or replace the fold": (
        _ends_with("400", rb"\r\n[ \t]+[^\r\n]")
    ),
    "RFC 9110 15.6.6: another major version of HTTP is refused with 505": (
        _ends_with("505", rb"HTTP/(?:[02-9]|\d\d+)\.")
    ),
    "RFC 9112 2.2: a head may be parsed after all of it has arrived; an incomplete one is"
    " refused when its time is over": _waits,
    "RFC 9110 10.1.1: a server may omit 100 Continue if the body has begun to arrive": (
        _no_continue
    ),
    "RFC 9110 15.5: the refusal of a malformed head heeds all lines of it that can be read,"
    " and names one of its faults": _refused_by_all_lines,
    "RFC 9112 3.2.2: the host of a target that is a whole URL replaces the Host header": (
        _host_of_target
    ),
    "RFC 9110 15.5.14: a body is refused with 413 as soon as the sizes of its chunks exceed"
    " the limit": _refused_earlier,
}


def record() -> list[Summary]:
    """
    Return the recorded summaries by seed.
    """
    return [Summary.parse(line) for line in RECORD.read_text("ascii").splitlines()]


def hold(held: Conversation) -> Exchange:
    """
    Hold a conversation with the present server.
    """
    return converse(held.setup, held.chunks, patient=held.patient, ends=held.ends)


def unexplained_differences(seeds: Sequence[int]) -> Iterator[str]:
    """
    Yield the differences between the present server and the record that are not accepted.
    """
    summaries = record()
    for seed in seeds:
        held, recorded = conversation(seed), summaries[seed]
        present = summary(hold(held))
        if present != recorded and not any(
            explains(held, recorded, present) for explains in ACCEPTED.values()
        ):
            yield (
                f"seed {seed}: recorded {recorded}; now {present}; setup {held.setup!r},"
                f" patient {held.patient}, ends {held.ends}, sent {held.chunks!r:.1500}"
            )


def _show(seed: int) -> None:
    held = conversation(seed)
    exchange = hold(held)
    print(f"seed {seed}: {held.setup}, patient: {held.patient}, ends: {held.ends}")
    for chunk in held.chunks:
        print("  >", repr(chunk)[:2000])
    for head, body in split(exchange.received):
        print("  <", head, body[:200])
    print("  closed:", exchange.closed, "  log:", exchange.log_lines)
    print("  recorded:", record()[seed])
    print("  now:     ", summary(exchange))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        _show(int(argument))
