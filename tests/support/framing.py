"""
Compare the framing of requests with h11: both parsers must find the same requests.

A stream is a pipeline of requests whose bodies contain request lines.  Some streams are
damaged.  If a parser ends a body at the wrong place, it finds another request.  So the
request lines in the service's access log are compared with those that h11 finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import h11
from attrs import frozen

from tests.support.chance import Chance
from tests.support.recorded import split
from tests.support.seam import converse

#: The service parses nothing after a response with one of these statuses.
_REFUSALS = frozenset({b"400", b"413", b"414", b"417", b"431", b"501", b"505"})

# Streams.

_BAIT = b"GET /bait HTTP/1.1\r\nHost: h\r\n\r\n"

#: Chunks of a body, valid and invalid ones.
_CHUNKS = (
    *(b"5\r\nabcde\r\n", b"1\r\nx\r\n", b"A\r\n0123456789\r\n", b"05\r\nabcde\r\n"),
    *(b"5;a=b\r\nabcde\r\n", b'5;a="b;c"\r\nabcde\r\n'),
    b"%x\r\n%b\r\n" % (len(_BAIT), _BAIT),
)
_BAD_CHUNKS = (
    *(b"5\nabcde\n", b"5 \r\nabcde\r\n", b" 5\r\nabcde\r\n", b"0x5\r\nabcde\r\n"),
    *(b"+5\r\nabcde\r\n", b"5\r\nabcdef\r\n", b"5\r\nabcd\r\n", b"5\r\r\nabcde\r\n"),
    *(b"5;a\nb\r\nabcde\r\n", b"\r\n", b"5_0\r\nabcde\r\n", b"-5\r\nabcde\r\n"),
    *(b"5;\r\nabcde\r\n", b"5\t;a\r\nabcde\r\n", b"FFFFFFFFFFFFFFFFFF\r\n"),
    b"5\r\nabcdeXX",
)
_ENDS = (b"0\r\n\r\n",) * 8 + (
    *(b"0\r\na: b\r\n\r\n", b"000\r\n\r\n", b"0;a=b\r\n\r\n", b"0\n\r\n", b"0\r\n\n"),
    *(b"0\r\n" + _BAIT, b"0\r\na\r\n\r\n", b"0\r\n", b"0\r\na: b\n\r\n", b"00;\r\n\r\n"),
)
_FRAMING = (
    *(b"Content-Length: %d", b"content-length:%d", b"Content-Length: %d ") * 2,
    *(b"Content-Length: 0%d", b"Content-Length: +%d", b"Content-Length: %d, %d"),
    *(b"Content-Length : %d", b"Content-Length: %d\r\nContent-Length: %d"),
    b"Content-Length: %d\r\nContent-Length: 0",
    *(b"Content-Length: %d;", b"Content-Length:"),
    *(b"Content-Length: 0x%x", b"Content-Length: -%d", b"X: y\r\n Content-Length: %d"),
    *(b"Content_Length: %d", b"Content-Length:\t%d", b"Content-Length\x0b: %d"),
)
_CODINGS = (
    *(b"Transfer-Encoding: chunked",) * 6,
    *(b"transfer-encoding:CHUNKED", b"Transfer-Encoding: gzip, chunked"),
    *(b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity"),
    *(b"Transfer-Encoding : chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 3"),
    *(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding:"),
    *(b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: xchunked"),
    *(b"Transfer-Encoding: chunked;q=1", b"X: y\r\n Transfer-Encoding: chunked"),
    *(b"Transfer_Encoding: chunked", b"Transfer-Encoding: chunked \t"),
)
_LINES = (
    *(b"Accept: */*", b"X: " + b"y" * 500, b"Connection: keep-alive", b"Connection: close"),
    *(b"Expect: 100-continue", b"X: \xff", b"X:", b"x-request-id: 1", b"Upgrade: h2c"),
)
_ODD = (
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\r\n\r\n"),
    *(b"0\r\n\r\n", _BAIT, b"1"),
)


def stream(seed: int) -> bytes:
    """
    Return the stream of a seed.
    """
    chance = Chance(seed)
    requests = [_request(chance, number) for number in range(1 + chance.below(4))]
    data = b"".join(requests) + b"GET /last HTTP/1.1\r\nHost: h\r\n\r\n"
    for _ in range(chance.below(3) if chance.happens(0.4) else 0):
        place = chance.below(len(data))
        data = data[:place] + chance.choose(_ODD) + data[place + chance.below(3) :]
    return data


def _request(chance: Chance, number: int) -> bytes:
    method = chance.choose((b"GET", b"POST", b"POST", b"PUT", b"DELETE"))
    version = b"1.0" if chance.happens(0.1) else b"1.1"
    lines = [b"%b /r%d HTTP/%b" % (method, number, version), b"Host: h"]
    lines += [chance.choose(_LINES) for _ in range(chance.below(3))]
    kind = chance.below(5)
    body = b""
    if kind in (0, 1):
        body = chance.choose((b"abcde", _BAIT, b"", b"x" * 300))
        form = chance.choose(_FRAMING) if chance.happens(0.5) else _FRAMING[0]
        count = form.count(b"%")
        lines.append(form % ((len(body),) * count))
    elif kind in (2, 3):
        lines.append(chance.choose(_CODINGS) if chance.happens(0.5) else _CODINGS[0])
        chunks = [
            chance.choose(_BAD_CHUNKS if chance.happens(0.1) else _CHUNKS)
            for _ in range(chance.below(4))
        ]
        end = chance.choose(_ENDS) if chance.happens(0.5) else _ENDS[0]
        body = b"".join(chunks) + end
    if chance.happens(0.3):
        lines[1:] = lines[:0:-1]
    return b"\r\n".join([*lines, b"", b""]) + body


# Both parsers.


@frozen
class Parsed:
    """
    What a parser found in a stream.

    @ivar lines: the request lines of complete requests.
    @ivar refused: the parser refused the bytes after these requests.
    @ivar ended: the last request ends the connection.
    """

    lines: tuple[bytes, ...]
    refused: bool = False
    ended: bool = False


def by_h11(data: bytes) -> Parsed:
    """
    Return what h11 finds in the stream.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16_384)
    lines: list[bytes] = []
    line = b""
    connection.receive_data(data)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                line = b"%b %b HTTP/%b" % (event.method, event.target, event.http_version)
            elif isinstance(event, h11.EndOfMessage):
                lines.append(line)
                if connection.our_state is h11.SEND_RESPONSE:
                    headers = [("Content-Length", "0")]
                    connection.send(h11.Response(status_code=200, headers=headers))
                    connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return Parsed(tuple(lines), ended=True)
                connection.start_next_cycle()
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                return Parsed(tuple(lines))
    except h11.RemoteProtocolError:
        return Parsed(tuple(lines), refused=True)


def by_service(chunks: Sequence[bytes]) -> Parsed:
    """
    Return what the service finds in the stream.
    """
    exchange = converse("remote", chunks, patient=False, ends=False)
    lines = [line.split(b'"')[1] for line in exchange.log_lines]
    heads = [head for head, _ in split(exchange.received)]
    statuses = [head.split(b" ")[1] for head in heads]
    final = [status for status in statuses if status != b"100"]
    refused = bool(final) and final[-1] in _REFUSALS and exchange.closed
    return Parsed(
        tuple(lines[:-1] if refused else lines), refused, exchange.closed and not refused
    )


# Differences.


def _is_prefix(shorter: Parsed, longer: Parsed) -> bool:
    return longer.lines[: len(shorter.lines)] == shorter.lines


def _waits_to_refuse(data: bytes, theirs: Parsed, ours: Parsed) -> bool:
    """
    Return whether the service waits for the end of a head that it will refuse.
    """
    waits = not (ours.refused or ours.ended) and _is_prefix(ours, theirs)
    return waits and by_service([data, b"\r\n\r\n"]).refused


def _kept_alive(data: bytes, theirs: Parsed, ours: Parsed) -> bool:
    """
    Return whether the service keeps an HTTP/1.0 connection, and h11 ends it.
    """
    return (
        theirs.ended
        and _is_prefix(theirs, ours)
        and theirs.lines[-1].endswith(b"HTTP/1.0")
        and b"keep-alive" in data
    )


#: The kinds of differences that are right, by their reasons.  Each function gets the
#: stream, h11's result and the service's result.  In each kind, one parser refuses or ends
#: more than the other, and both find the same requests before that.
KNOWN: dict[str, Callable[[bytes, Parsed, Parsed], bool]] = {
    "the service is stricter: it refuses what h11 accepts, and closes": (
        lambda _, theirs, ours: ours.refused and _is_prefix(ours, theirs)
    ),
    "h11 is stricter, and the service found the same requests up to there": (
        lambda _, theirs, ours: theirs.refused and _is_prefix(theirs, ours)
    ),
    "RFC 9112 2.2: h11 takes a bare LF for a line end; the service refuses it as soon as"
    " the head ends in CRLF CRLF": _waits_to_refuse,
    "RFC 9112 9.3: the service keeps an HTTP/1.0 connection that asks for it": _kept_alive,
}


def unknown_differences(seeds: Sequence[int]) -> Iterator[str]:
    """
    Yield the differences that are of no known kind.

    A stream is sent at once or in pieces.
    """
    for seed in seeds:
        data = stream(seed)
        chunks = [data] if seed % 3 else Chance(seed).pieces(data, 5)
        theirs, ours = by_h11(data), by_service(chunks)
        differ = theirs.lines != ours.lines or theirs.refused != ours.refused
        if differ and not any(kind(data, theirs, ours) for kind in KNOWN.values()):
            yield f"seed {seed}: {data!r:.800}\n  h11 {theirs}\n  service {ours}"
