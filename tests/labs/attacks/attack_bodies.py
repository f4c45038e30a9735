"""
Attacks on the end of a request: lengths, codings, chunks, pipelines, half-closes.
"""

from __future__ import annotations

from tests.labs.attacks.attacking import Attack, Rules, attacks, get, request, step

CHUNKED = b"Transfer-Encoding: chunked"
FIVE = b"Content-Length: 5"
EXPECT = b"Expect: 100-continue"
END = b"0\r\n\r\n"
NO_HOST = b"POST /next HTTP/1.1\r\n\r\n"


def length(value: bytes, body: bytes = b"12345") -> bytes:
    """
    Return a step with this C{Content-Length}.
    """
    return step(b"Content-Length: " + value, body=body)


def chunks(body: bytes) -> bytes:
    """
    Return a step with these chunks as its body.
    """
    return step(CHUNKED, body=body)


def coding(*lines: bytes) -> bytes:
    """
    Return a step with a chunked body and these header lines.
    """
    return step(*lines, body=b"5\r\n12345\r\n" + END)


#: Requests that are refused, by rule and status.
REFUSED: Rules = {
    # Lengths.
    ("RFC 9112 6.3: a Content-Length that is not one number of digits is 400", 400): {
        "a plus": length(b"+5"),
        "a minus": length(b"-5"),
        "minus nothing": length(b"-0", b""),
        "no number": length(b"", b""),
        "hexadecimal": length(b"0x5"),
        "an exponent": length(b"5e0"),
        "a fraction": length(b"5.0"),
        "an underscore": length(b"1_0", b"1234567890"),
        "a list": length(b"5, 5"),
        "a list of two": length(b"5, 6"),
        "a comma": length(b"5,"),
        "a space within": length(b"1 0", b"1234567890"),
        "digits of another script": length(b"\xd9\xa5"),
        "a superscript": length(b"\xb2", b"12"),
        "quotes": length(b'"5"'),
        "a semicolon": length(b"5;a"),
        "a null after": length(b"5\0"),
        "a vertical tab": length(b"\x0b5"),
        "a CR": length(b"5\r"),
        "a LF": length(b"5\n"),
        "a word": length(b"chunked", b""),
        "a space before the colon of a length": step(b"Content-Length : 5", body=b"12345"),
    },
    ("RFC 9112 6.3: two lengths are 400, equal ones may be", 400): {
        "two lengths": step(b"Content-Length: 5", b"Content-Length: 6", body=b"123456"),
        "two lengths, 0 first": step(b"Content-Length: 0", b"Content-Length: 5"),
        "two equal lengths": step(*[b"Content-Length: 5"] * 2, body=b"12345"),
        "a valid length and an invalid one": step(
            b"Content-Length: 0", b"Content-Length: x"
        ),
        "lengths in two spellings": step(b"content-length: 0", b"CONTENT-LENGTH: 1"),
    },
    ("RFC 9110 15.5.14: a body larger than the limit is 413", 413): {
        "65537": length(b"65537", b""),
        "2^31": length(b"2147483648", b""),
        "2^32 + 5": length(b"4294967301"),
        "2^63": length(b"9223372036854775808", b""),
        "2^64 + 5": length(b"18446744073709551621"),
        "5000 digits": length(b"9" * 5000, b""),
        "too long, with an expectation": step(b"Content-Length: 65537", EXPECT),
    },
    # Codings.
    ("RFC 9112 6.3: a length and a coding together are 400", 400): {
        "a length and a coding": coding(b"Content-Length: 5", CHUNKED),
        "a coding and a length": coding(CHUNKED, b"Content-Length: 5"),
        "a length of 0 and a coding": coding(b"Content-Length: 0", CHUNKED),
        "a coding, a length and more": coding(CHUNKED, b"X: y", b"Content-Length: 4"),
        "identity and a length": coding(
            b"Transfer-Encoding: identity", b"Content-Length: 5"
        ),
    },
    ("RFC 9112 6.1: an unknown coding, or chunked twice, is an error", 400): {
        "gzip": coding(b"Transfer-Encoding: gzip"),
        "gzip and chunked": coding(b"Transfer-Encoding: gzip, chunked"),
        "chunked and gzip": coding(b"Transfer-Encoding: chunked, gzip"),
        "identity": coding(b"Transfer-Encoding: identity"),
        "identity and chunked": coding(b"Transfer-Encoding: identity, chunked"),
        "chunked and identity": coding(CHUNKED, b"Transfer-Encoding: identity"),
        "chunked twice": coding(CHUNKED, CHUNKED),
        "chunked twice in one": coding(b"Transfer-Encoding: chunked, chunked"),
        "a comma before": coding(b"Transfer-Encoding: , chunked"),
        "a comma after": coding(b"Transfer-Encoding: chunked,"),
        "no coding": coding(b"Transfer-Encoding:"),
        "a parameter": coding(b"Transfer-Encoding: chunked;q=1"),
        "in quotes": coding(b'Transfer-Encoding: "chunked"'),
        "xchunked": coding(b"Transfer-Encoding: xchunked"),
        "chunke d": coding(b"Transfer-Encoding: chunke d"),
        "a vertical tab before chunked": coding(b"Transfer-Encoding: \x0bchunked"),
        "a null after chunked": coding(b"Transfer-Encoding: chunked\0"),
        "a CR after chunked": coding(b"Transfer-Encoding: chunked\r"),
        "a LF before chunked": coding(b"Transfer-Encoding:\nchunked"),
        "a space before the colon of a coding": coding(b"Transfer-Encoding : chunked"),
        "a space before the coding's name": coding(
            b"X: y", b"Transfer-Encoding\t: chunked"
        ),
        "a folded second coding": coding(CHUNKED, b" , identity"),
        "chunked, folded": coding(b"Transfer-Encoding:", b" chunked"),
        "two codings, the second unknown": coding(CHUNKED, b"Transfer-encoding: cow"),
    },
    ("RFC 9112 6.1: HTTP/1.0 has no Transfer-Encoding", 400): {
        "chunked in HTTP/1.0": request(b"POST /next HTTP/1.0", CHUNKED, body=END),
        "chunked in HTTP/1.0, kept": request(
            b"POST /next HTTP/1.0", b"Connection: keep-alive", CHUNKED, body=END
        ),
    },
    # Chunks.
    ("RFC 9112 7.1: a chunk's size is hexadecimal digits and nothing else", 400): {
        "no size": chunks(b"\r\n12345\r\n" + END),
        "letters": chunks(b"xyz\r\n12345\r\n" + END),
        "0x": chunks(b"0x5\r\n12345\r\n" + END),
        "a plus before a size": chunks(b"+5\r\n12345\r\n" + END),
        "a minus before a size": chunks(b"-5\r\n12345\r\n" + END),
        "a minus before 0": chunks(b"-0\r\n\r\n"),
        "an underscore in a size": chunks(b"0_5\r\n12345\r\n" + END),
        "a space before a size": chunks(b" 5\r\n12345\r\n" + END),
        "a space after a size": chunks(b"5 \r\n12345\r\n" + END),
        "a tab after a size": chunks(b"5\t\r\n12345\r\n" + END),
        "a null after a size": chunks(b"5\0\r\n12345\r\n" + END),
        "a CR after a size": chunks(b"5\r\r\n12345\r\n" + END),
        "two sizes": chunks(b"5 5\r\n12345\r\n" + END),
        "a dot": chunks(b"5.0\r\n12345\r\n" + END),
        "other digits": chunks(b"\xd9\xa5\r\n12345\r\n" + END),
        "an extension without a size": chunks(b";a=b\r\n12345\r\n" + END),
    },
    ("RFC 9112 7.1: a chunk ends in CRLF, and so does its size", 400): {
        "no end": chunks(b"5\r\n12345" + END),
        "a chunk too long": chunks(b"5\r\n123456\r\n" + END),
        "a chunk too short": chunks(b"5\r\n1234\r\n" + END),
        "a LF after a size": chunks(b"5\n12345\r\n" + END),
        "LF only, in chunks": chunks(b"5\n12345\n0\n\n"),
        "a LF after a chunk": chunks(b"5\r\n12345\n" + END),
        "a CR after a chunk": chunks(b"5\r\n12345\r" + END),
        "CRs after a chunk": chunks(b"5\r\n12345\r\r\n" + END),
        "LF and CR after a chunk": chunks(b"5\r\n12345\n\r" + END),
        "a LF after the last size": chunks(b"0\n\r\n"),
        "no chunks but a step": chunks(b""),
        "any two bytes after a chunk": chunks(b"5\r\n12345XX0\r\n\r\n"),
    },
    ("RFC 9112 7.1.1: an extension is bounded and has no control characters", 400): {
        "a LF in an extension": chunks(b"5;a\nb\r\n12345\r\n" + END),
        "a CR in an extension": chunks(b"5;a\rb\r\n12345\r\n" + END),
        "a null in an extension": chunks(b"5;a\0\r\n12345\r\n" + END),
        "an escape in an extension": chunks(b"5;\x1b\r\n12345\r\n" + END),
        "a LF in the last extension": chunks(b"0;\n\r\n\r\n"),
        "a long extension": chunks(b"5;" + b"a" * 2000 + b"\r\n12345\r\n" + END),
        "a long size of zeros": chunks(b"0" * 2000 + b"\r\n\r\n"),
        "a size without an end": chunks(b"1" * 5000),
    },
    ("RFC 9110 15.5.14: chunks larger than the limit in all are 413", 413): {
        "17 chunks of 4096": chunks(b"1000\r\n%b\r\n" % (b"x" * 4096) * 17 + END),
        "a chunk of 65537": chunks(b"10001\r\n%b\r\n" % (b"x" * 65537) + END),
        "1001 chunks of 1": chunks(b"1\r\nx\r\n" * 1001 + END),
        "70,000 chunks of 1": chunks(b"1\r\nx\r\n" * 70_000 + END),
        "a size of 17 zeros": chunks(b"0" * 17 + b"\r\n\r\n"),
        "a size of 2^64": chunks(b"10000000000000000\r\n" + b"x" * 70_000),
    },
    ("RFC 9112 7.1.2: trailers are field lines", 400): {
        "a trailer without a colon": chunks(b"0\r\nname\r\n\r\n"),
        "a trailer without a name": chunks(b"0\r\n: value\r\n\r\n"),
        "a trailer with a null": chunks(b"0\r\nname: a\0b\r\n\r\n"),
        "a trailer with a LF": chunks(b"0\r\nname: a\nb\r\n\r\n"),
        "a trailer with a CR": chunks(b"0\r\nname: a\rb\r\n\r\n"),
        "a step instead of trailers": chunks(b"0\r\n"),
        "a LF for the end of trailers": chunks(b"0\r\n\nPOST /reset HTTP/1.1\r\n\r\n"),
    },
    ("RFC 6585 5: large trailers are refused", frozenset({400, 431})): {
        "70 KB of trailers": chunks(b"0\r\n" + b"a: %b\r\n" % (b"x" * 1000) * 70 + b"\r\n"),
        "101 trailers": chunks(b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n"),
        "a trailer without an end": chunks(b"0\r\na: " + b"x" * 70_000),
    },
    # Expectations.
    ("RFC 9110 10.1.1: a bad request with an expectation gets 400, and no 100", 400): {
        "an expectation, no Host": step()[:21] + EXPECT + b"\r\n\r\n",
        "an expectation with two lengths": step(EXPECT, FIVE, b"Content-Length: 2"),
    },
    # Unfinished.
    ("RFC 9112 7.1: a size must not overflow: it is refused, not truncated", 413): {
        "a size of 2^64 + 5": chunks(b"10000000000000005\r\n12345\r\n" + END),
        "a size of 2^32 + 5": chunks(b"100000005\r\n12345\r\n" + END),
        "a size of 2^31": chunks(b"80000000\r\n12345\r\n" + END),
        "a size of f's": chunks(b"f" * 1000 + b"\r\n12345\r\n" + END),
    },
}

#: Requests that are parsed, by rule and status.
ACCEPTED: Rules = {
    # Lengths.
    ("RFC 9110 8.6: a length may have any number of digits; the body is ignored", 200): {
        "0": length(b"0", b""),
        "a length": length(b"5"),
        "zeros before": length(b"0000000005"),
        "blanks around": length(b" \t5 \t"),
        "the largest": length(b"65536", b"x" * 65536),
        "a body like a step": length(b"%d" % len(step()), step()),
        "a form": step(
            b"Content-Type: application/x-www-form-urlencoded", FIVE, body=b"a=%zz"
        ),
        "parts without a boundary": step(
            b"Content-Type: multipart/form-data", FIVE, body=b"12345"
        ),
        "an invalid content type": step(b"Content-Type: \xff;;=/", FIVE, body=b"12345"),
        "a coding of the content": step(b"Content-Encoding: gzip", FIVE, body=b"12345"),
        "a body with GET": get(b"/next", FIVE, body=b"12345"),
    },
    # Codings.
    ("RFC 9112 7: the names of codings are case-insensitive", 200): {
        "CHUNKED": coding(b"TRANSFER-ENCODING: CHUNKED"),
        "blanks around chunked": coding(b"Transfer-Encoding: \tchunked \t"),
        "named in Connection": coding(b"Connection: transfer-encoding", CHUNKED),
    },
    # Chunks.
    ("RFC 9112 7.1: chunks, extensions and trailers are ignored", 200): {
        "chunks": chunks(b"5\r\n12345\r\n" + END),
        "no chunks": chunks(END),
        "zeros before a size": chunks(b"0000005\r\n12345\r\n000\r\n\r\n"),
        "capitals": chunks(b"A\r\n1234567890\r\n" + END),
        "an extension": chunks(b"5;a=b;c\r\n12345\r\n" + END),
        "a quoted extension": chunks(b'5;a="b;c"\r\n12345\r\n' + END),
        "trailers": chunks(b"0\r\na: b\r\nc: d\r\n\r\n"),
        "a trailer that names a length": chunks(b"0\r\nContent-Length: 50\r\n\r\n"),
        "a trailer that names a coding": chunks(b"0\r\n" + CHUNKED + b"\r\n\r\n"),
        "a trailer with a key": chunks(b"0\r\nIdempotency-Key: a\r\n\r\n"),
        "a step in a chunk": chunks(b"%x\r\n%b\r\n" % (len(step()), step()) + END),
        "1000 chunks": chunks(b"1\r\nx\r\n" * 1000 + END),
    },
    # Pipelines.
    ("RFC 9110 7.8: an upgrade to an unknown protocol is ignored", 200): {
        "to HTTP/2": step(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
        "to a web socket": step(b"Connection: Upgrade", b"Upgrade: websocket"),
    },
    # Expectations.
    ("RFC 9110 10.1.1: 100 (Continue) before the body, or the response at once", 200): {
        "an expectation, without waiting": step(EXPECT, FIVE, body=b"12345"),
        "an expectation in capitals": step(b"Expect: 100-CONTINUE", FIVE, body=b"12345"),
        "an expectation, with chunks": step(EXPECT, CHUNKED, body=b"5\r\n12345\r\n" + END),
        "an expectation without a body": step(EXPECT),
        "another expectation": step(b"Expect: 200-ok"),
    },
    ("RFC 9110 10.1.1: an expectation in HTTP/1.0 is ignored", 200): {
        "an expectation in HTTP/1.0": request(
            b"POST /next HTTP/1.0", EXPECT, FIVE, body=b"12345"
        )
    },
}

#: Second requests of a pipeline: their names, their bytes, and the status that refuses
#: them.
BAD_REQUESTS = (
    ("no Host", NO_HOST, 400),
    ("nonsense", b"nonsense\r\n\r\n", 400),
    ("a bad header", step(b"bad name: a"), 400),
    ("two lengths", step(b"Content-Length: 1", b"Content-Length: 2"), 400),
    ("a length and a coding", coding(b"Content-Length: 4", CHUNKED), 400),
    ("a bad chunk", chunks(b"x\r\n"), 400),
    ("a large body", length(b"65537", b""), 413),
    ("a long line", request(b"POST /next?" + b"x" * 9000 + b" HTTP/1.1"), 414),
    ("many headers", step(*[b"a: b"] * 200), 431),
)

PIPELINES: list[Attack] = [
    *(
        attack
        for name, bad, status in BAD_REQUESTS
        for attack in attacks(
            "RFC 9112 9.3.2: in order; nothing after a refused request is executed",
            [200, status],
            {f"a step, then {name}, then a step": step() + bad + step()},
            closes=True,
            steps=1,
        )
    ),
    *attacks(
        "RFC 9112 9.3.2: in order, and each once",
        [*[200] * 100, 400],
        {"100 steps, no Host, 100 steps": step() * 100 + NO_HOST + step() * 100},
        closes=True,
        steps=100,
    ),
    *attacks(
        "RFC 9112 9.3, 9.6: nothing after a connection's last request is executed",
        [200],
        {
            "the last one, then steps": step(b"Connection: close"),
            "HTTP/1.0, then steps": request(b"POST /next HTTP/1.0"),
        },
        following=step() * 10,
        closes=True,
        steps=1,
    ),
    *attacks(
        "RFC 9112 9.3: a refused request that was parsed does not close the connection",
        [404, 405, 200],
        {"404, 405 and a step": get(b"/nothing") + request(b"PUT /next HTTP/1.1") + step()},
        steps=1,
    ),
]

#: Requests without an end: each gets 408 after the request timeout.
TIMED_OUT: list[Attack] = attacks(
    "RFC 9110 15.5.9: a request that does not arrive in time is 408",
    [408],
    {
        "half a line": b"POST /ne",
        "a line": b"POST /next HTTP/1.1\r\n",
        "a head without its end": step()[:-2],
        "bare LF only": b"POST /next HTTP/1.1\nHost: localhost\n\n",
        "a length and no body": length(b"5", b""),
        "half a body": length(b"5", b"12"),
        "an expectation and no body": step(EXPECT, FIVE),
        "no chunk": chunks(b""),
        "half a size": chunks(b"5"),
        "half a chunk": chunks(b"5\r\n12"),
        "no last chunk": chunks(b"5\r\n12345\r\n"),
        "no end of the trailers": chunks(b"0\r\na: b\r\n"),
    },
    closes=True,
    is_incomplete=True,
)

#: Requests after which the client closes its half of the connection, by rule and statuses.
HALF_CLOSED: dict[tuple[str, tuple[int, ...]], dict[str, bytes]] = {
    ("RFC 9112 8: an incomplete request is not executed", ()): {
        "half-closed at once": b"",
        "half-closed within a line": b"POST /ne",
        "half-closed within a head": step()[:-2],
        "half-closed within a body": length(b"5", b"12"),
        "half-closed within a chunk": chunks(b"5\r\n12"),
        "half-closed before the last chunk": chunks(b"5\r\n12345\r\n"),
        "half-closed within the trailers": chunks(b"0\r\na: b\r\n"),
    },
    ("RFC 9112 9.6: half-closed after all requests: the responses come", (200,) * 3): {
        "three steps, half-closed": step() * 3,
        "three steps with bodies, half-closed": length(b"5") * 3,
    },
    ("RFC 9112 9.6: half a request after a complete one is not executed", (200,)): {
        "a step and a half, half-closed": step() + step()[:-2]
    },
    ("RFC 9112 9.6: half-closed after a bad request: the response comes", (400,)): {
        "nonsense, half-closed": b"nonsense\r\n\r\n",
        "no Host, half-closed": step()[:21] + b"\r\n",
    },
}
