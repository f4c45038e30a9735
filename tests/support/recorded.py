"""
The responses of version 1.0.0 in 20,000 generated conversations.

C{tests/nets/responses.txt} has one line for each seed of L{tests.support.conversations}.
The line has the status and a digest of each response.  Its last word says whether the
connection was closed, and has a digest of the access log.

The digest of a response covers its headers in any order, and the body of a response about
the cursor.  It does not cover the date, the reason phrase (which depends on the version of
Python), the texts of problems and documents, and the headers that depend on these texts.

The lines of 914 conversations are later ones, because version 1.0.0 broke these rules:

  - RFC 9112 5.2: a folded header gets 400.
  - RFC 9112 2.2: a head may be parsed after all of it has arrived.  An incomplete one is
    refused when its time is over.
  - RFC 9110 10.1.1: C{100 Continue} may be omitted if the body has begun to arrive.
  - RFC 9110 15.5: the refusal of a malformed head heeds all lines of it that can be read,
    and names one of its faults.
  - RFC 9112 3.2.2: the host of a target that is a whole URL replaces the C{Host} header.
  - RFC 9110 15.5.14: a body gets 413 as soon as the sizes of its chunks exceed the limit.

C{python -m tests.support.recorded SEED ...} shows conversations, with the recorded line and
the present one.  To see the responses of version 1.0.0, show the conversation in a checkout
of that version.  If a difference is right, put the present line into the record, and the
reason into this list.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from tests.support.conversations import Conversation, conversation
from tests.support.seam import Exchange, converse

RECORD = Path(__file__).parents[1] / "nets" / "responses.txt"

CONVERSATIONS = 20_000

_NOT_COVERED = (b"Content-Security-Policy:", b"Transfer-Encoding:")
_ABOUT_WORDS = (b"Content-Length:", b"ETag:")
_LENGTH_IN_LOG = re.compile(rb'(" \d{3}) (?:\d+|-) ')


def summary(exchange: Exchange) -> str:
    """
    Return the line of the record for C{exchange}.
    """
    responses = [_digest_of_response(*parts) for parts in split(exchange.received)]
    # Version 1.0.0 quoted the client's address, as the record has it.
    quoted = [b'"%b" %b' % tuple(line.split(b" ", 1)) for line in exchange.log_lines]
    lines = [_LENGTH_IN_LOG.sub(rb"\1 ", line) for line in quoted]
    end = "closed" if exchange.closed else "open"
    return " ".join([*responses, f"{end}:{_digest(*lines)}"])


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


def record() -> list[str]:
    """
    Return the recorded lines by seed.
    """
    return RECORD.read_text("ascii").splitlines()


def hold(held: Conversation) -> Exchange:
    """
    Hold a conversation with the present server.
    """
    return converse(held.setup, held.chunks, patient=held.patient, ends=held.ends)


def differences(seeds: Sequence[int]) -> Iterator[str]:
    """
    Yield the differences between the present server and the record.
    """
    lines = record()
    for seed in seeds:
        held, recorded = conversation(seed), lines[seed]
        present = summary(hold(held))
        if present != recorded:
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
