"""
Attacks on the end of a request: lengths, codings, chunks, pipelines, half-closes.
"""

from __future__ import annotations

from tests.labs.attacks import attack_heads
from tests.labs.attacks.attacking import Rules, each, get, request, step

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


def chunked(*lines: bytes) -> bytes:
    """
    Return a step with a chunked body and these header lines.
    """
    return step(*lines, body=b"5\r\n12345\r\n" + END)


def coding(value: bytes) -> bytes:
    """
    Return a step with this C{Transfer-Encoding}.
    """
    return chunked(b"Transfer-Encoding:" + value)


def chunk_size(line: bytes) -> bytes:
    """
    Return a step with a chunk of five bytes, after this line with its size.
    """
    return chunks(line + b"\r\n12345\r\n" + END)


def after_chunk(end: bytes) -> bytes:
    """
    Return a step with a chunk of five bytes, before these bytes.
    """
    return chunks(b"5\r\n12345" + end + END)


def trailers(lines: bytes) -> bytes:
    """
    Return a step with trailers.
    """
    return chunks(b"0\r\n" + lines)


#: Requests that are refused, by rule and status.
REFUSED: Rules = {
    # Lengths.
    ("RFC 9112 6.3: a Content-Length that is not one number of digits is 400", 400): {
        **each(length, b"+5", b"-5", b"", b"0x5", b"5.0", b"1_0", b"1 0", b"5, 5", b"5;a"),
        # The first value is an Arabic digit in UTF-8, which int() would accept as text.
        **each(length, b"\xd9\xa5", b"5\0", b"\x0b5", b"5\r", b"5\n"),
        "a space before the colon of a length": step(b"Content-Length : 5", body=b"12345"),
    },
    ("RFC 9112 6.3: two lengths are 400, equal ones may be", 400): {
        "two lengths": step(b"Content-Length: 5", b"Content-Length: 6", body=b"123456"),
        "two equal lengths": step(*[b"Content-Length: 5"] * 2, body=b"12345"),
        "lengths in two spellings": step(b"content-length: 0", b"CONTENT-LENGTH: 1"),
    },
    ("RFC 9110 15.5.14: a body larger than the limit is 413", 413): {
        **each(length, b"65537", b"4294967301", b"18446744073709551621", b"9" * 5000),
        "too long, with an expectation": step(b"Content-Length: 65537", EXPECT),
    },
    # Codings.
    ("RFC 9112 6.3: a length and a coding together are 400", 400): {
        "a length and a coding": chunked(b"Content-Length: 5", CHUNKED),
        "a coding and a length": chunked(CHUNKED, b"Content-Length: 5"),
    },
    ("RFC 9112 6.1: an unknown coding, or chunked twice, is an error", 400): {
        **each(coding, b" gzip", b" gzip, chunked", b" chunked, gzip", b" identity"),
        **each(coding, b"", b" chunked, chunked", b" chunked,", b" chunked;q=1"),
        **each(coding, b" \x0bchunked", b" chunked\0", b"\nchunked", b"\r\n chunked"),
        "chunked twice": chunked(CHUNKED, CHUNKED),
        "two codings, the second unknown": chunked(CHUNKED, b"Transfer-encoding: cow"),
        "a space before the colon of a coding": chunked(b"Transfer-Encoding : chunked"),
    },
    ("RFC 9112 6.1: HTTP/1.0 has no Transfer-Encoding", 400): {
        "chunked in HTTP/1.0": request(b"POST /next HTTP/1.0", CHUNKED, body=END),
    },
    # Chunks.
    ("RFC 9112 7.1: a chunk's size is hexadecimal digits and nothing else", 400): {
        **each(chunk_size, b"", b"xyz", b"0x5", b"+5", b"-5", b"0_5", b" 5", b"5 ", b"5\t"),
        **each(chunk_size, b"5\0", b"5\r", b"5 5", b"5.0", b"\xd9\xa5", b";a=b"),
    },
    ("RFC 9112 7.1: a chunk ends in CRLF, and so does its size", 400): {
        **each(after_chunk, b"", b"6\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"XX"),
        "a chunk too short": chunks(b"5\r\n1234\r\n" + END),
        "a LF after a size": chunks(b"5\n12345\r\n" + END),
        "a LF after the last size": chunks(b"0\n\r\n"),
    },
    ("RFC 9112 7.1.1: an extension is bounded and has no control characters", 400): {
        **each(chunk_size, b"5;a\nb", b"5;a\rb", b"5;a\0", b"5;\x1b", b"5;" + b"a" * 2000),
        "a size without an end": chunks(b"1" * 5000),
    },
    ("RFC 9110 15.5.14: chunks larger than the limit in all are 413", 413): {
        "17 chunks of 4096": chunks(b"1000\r\n%b\r\n" % (b"x" * 4096) * 17 + END),
        "a chunk of 65537": chunks(b"10001\r\n%b\r\n" % (b"x" * 65537) + END),
        "1001 chunks of 1": chunks(b"1\r\nx\r\n" * 1001 + END),
        "a size of 17 zeros": chunks(b"0" * 17 + b"\r\n\r\n"),
        # Sizes that 32 or 64 bits would truncate.
        **each(chunk_size, b"100000005", b"10000000000000005", b"f" * 1000),
    },
    ("RFC 9112 7.1.2: trailers are field lines", 400): {
        **each(trailers, b"name\r\n\r\n", b": value\r\n\r\n", b"name: a\nb\r\n\r\n"),
        "a step instead of trailers": chunks(b"0\r\n"),
        "a LF for the end of trailers": chunks(b"0\r\n\nPOST /reset HTTP/1.1\r\n\r\n"),
    },
    ("RFC 6585 5: large trailers are refused", 431): {
        "70 KB of trailers": trailers(b"a: %b\r\n" % (b"x" * 1000) * 70 + b"\r\n"),
        "101 trailers": trailers(b"a: b\r\n" * 101 + b"\r\n"),
        "a trailer without an end": trailers(b"a: " + b"x" * 70_000),
    },
    # Expectations.
    ("RFC 9110 10.1.1: a bad request with an expectation gets 400, and no 100", 400): {
        "an expectation, no Host": step()[:21] + EXPECT + b"\r\n\r\n",
        "an expectation with two lengths": step(EXPECT, FIVE, b"Content-Length: 2"),
    },
}

#: Requests that are parsed, by rule and status.
ACCEPTED: Rules = {
    # Lengths.
    ("RFC 9110 8.6: a length may have any number of digits; the body is ignored", 200): {
        **each(length, b"5", b"0000000005", b" \t5 \t"),
        "a length of 0": length(b"0", b""),
        "the largest": length(b"65536", b"x" * 65536),
        "a body like a step": length(b"%d" % len(step()), step()),
        "a body with GET": get(b"/next", FIVE, body=b"12345"),
    },
    # Codings.
    ("RFC 9112 7: the names of codings are case-insensitive", 200): {
        **each(coding, b" CHUNKED", b"\tchunked \t"),
        "named in Connection": chunked(b"Connection: transfer-encoding", CHUNKED),
    },
    # Chunks.
    ("RFC 9112 7.1: chunks, extensions and trailers are ignored", 200): {
        **each(chunk_size, b"5", b"0000005", b"5;a=b;c", b'5;a="b;c"'),
        **each(chunks, END, b"A\r\n1234567890\r\n" + END),
        **each(trailers, b"a: b\r\nc: d\r\n\r\n", b"Content-Length: 50\r\n\r\n"),
        **each(trailers, CHUNKED + b"\r\n\r\n", b"Idempotency-Key: a\r\n\r\n"),
        "a step in a chunk": chunks(b"%x\r\n%b\r\n" % (len(step()), step()) + END),
        "1000 chunks": chunks(b"1\r\nx\r\n" * 1000 + END),
    },
    # Pipelines.
    (
        "RFC 9112 9.3: a refused request that was parsed does not close the connection",
        (404, 405, 200),
    ): {"404, 405 and a step": get(b"/nothing") + request(b"PUT /next HTTP/1.1") + step()},
    ("RFC 9110 7.8: an upgrade to an unknown protocol is ignored", 200): {
        "to HTTP/2": step(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
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

#: Pipelines that end with a refused request: for each rule, its first request.
REFUSED_PIPELINES: Rules = {
    **{
        (f"RFC 9112 9.3.2: in order, after a step: {rule}", (200, status)): {
            f"a step, then {name}": step() + sent
        }
        for (rule, status), cases in {**attack_heads.REFUSED, **REFUSED}.items()
        for name, sent in [*cases.items()][:1]
        if isinstance(status, int)
    },
    ("RFC 9112 9.3.2: in order, and each once", (*[200] * 100, 400)): {
        "100 steps, no Host, 100 steps": step() * 100 + NO_HOST + step() * 100
    },
}

#: Requests after which the service closes the connection.
LAST_REQUESTS: Rules = {
    ("RFC 9112 9.6: nothing after a connection's last request is executed", 200): {
        "the last one": step(b"Connection: close")
    }
}

#: Requests without an end.
INCOMPLETE = {
    "half a line": b"POST /ne",
    "a head without its end": step()[:-2],
    "a length and no body": length(b"5", b""),
    "an expectation and no body": step(EXPECT, FIVE),
    "no chunk": chunks(b""),
    "half a size": chunks(b"5"),
    "half a chunk": chunks(b"5\r\n12"),
    "no end of the trailers": chunks(b"0\r\na: b\r\n"),
}

#: Each gets 408 after the request timeout.
TIMED_OUT: Rules = {
    ("RFC 9110 15.5.9: a request that does not arrive in time is 408", 408): {
        "bare LF only": b"POST /next HTTP/1.1\nHost: localhost\n\n",
        **INCOMPLETE,
    }
}

#: Requests after which the client closes its half of the connection, by rule and statuses.
HALF_CLOSED: Rules = {
    ("RFC 9112 8: an incomplete request is not executed", ()): {
        "half-closed at once": b"",
        **{f"{name}, half-closed": sent for name, sent in INCOMPLETE.items()},
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
    },
}
