"""
Attacks in the head of a request: request line, target, Host and other headers.
"""

from __future__ import annotations

from tests.labs.attacks.attacking import Rules, each, get, request, step

LONG = b"x" * 20_000
HOST, FOREIGN = b"Host: localhost", b"Host: attacker.example"
OTHER_SITE = b"Sec-Fetch-Site: cross-site"


def post(target: bytes) -> bytes:
    """
    Return a step with this target.
    """
    return request(b"POST " + target + b" HTTP/1.1")


def host(*lines: bytes) -> bytes:
    """
    Return a step with these lines instead of its Host.
    """
    return b"\r\n".join([b"POST /next HTTP/1.1", *lines, b"", b""])


def host_value(value: bytes) -> bytes:
    """
    Return a step with this Host.
    """
    return host(b"Host: " + value)


def version(value: bytes) -> bytes:
    """
    Return a step with this version of HTTP.
    """
    return request(b"POST /next " + value)


def method(value: bytes) -> bytes:
    """
    Return a request for a step by this method.
    """
    return request(value + b" /next HTTP/1.1")


def folded(line: bytes) -> bytes:
    """
    Return a step with a header that continues on this line.
    """
    return step(b"Name: a", line)


def key(value: bytes) -> bytes:
    """
    Return a step with this key.
    """
    return step(b"Idempotency-Key:" + value)


#: Requests that are refused, by rule and status.
REFUSED: Rules = {
    # Request lines.
    ("RFC 9112 3: a request line is method SP target SP version, else 400", 400): {
        "nothing but spaces": b"   \r\n\r\n",
        **each(request, b"POST /next", b"POST  /next HTTP/1.1", b" POST /next HTTP/1.1"),
        **each(request, b"POST /next HTTP/1.1 ", b"POST\t/next HTTP/1.1"),
        **each(request, b"POST /next\x0cHTTP/1.1", b"POST /next /next HTTP/1.1"),
    },
    ("RFC 9112 2.2: at least one empty line is ignored, but not many", 400): {
        "two empty lines": b"\r\n\r\n" + step(),
        "many": b"\r\n" * 1000 + step(),
    },
    ("RFC 9112 2.2: a bare CR is no line end: 400 or a space", 400): {
        "a CR within the line": request(b"POST /next\rHTTP/1.1"),
        "a CR before the line's end": request(b"POST /next HTTP/1.1\r"),
        "CR only": b"POST /next HTTP/1.1\rHost: localhost\r\r",
    },
    ("RFC 9112 2.2: a bare LF may end a line; here it is refused", 400): {
        "a LF after the line": b"POST /next HTTP/1.1\nHost: localhost\r\n\r\n",
        "LF only": b"POST /next HTTP/1.1\nHost: localhost\n\n",
        "a LF before the method": b"\n" + step(),
    },
    ("RFC 9110 9.1: a method is a token", 400): {
        **each(method, b"PO(ST", b"PO\0ST", b'"POST"', b"PO\xc3\x9fT", b"POST:"),
    },
    ("RFC 9112 2.3: the version is HTTP/1.0 or HTTP/1.1 in capitals", 400): {
        **each(version, b"http/1.1", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.10", b"HTTP/1,1"),
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "a line of a proxy's protocol": b"PROXY TCP4 127.0.0.1 1 2 3\r\n" + step(),
    },
    ("RFC 9112 3: a request line that is too long is 414", 414): {
        "a line of 8193 bytes": post(b"/next?" + b"x" * 8173),
        "a line without an end": b"POST /next?" + LONG,
    },
    # Targets.
    ("RFC 9110 9.3.6: a server that is no proxy opens no tunnel", 405): {
        "CONNECT to a host": request(b"CONNECT localhost:80 HTTP/1.1")
    },
    ("RFC 9112 3.2: a target is a path, an http URL, or the asterisk of OPTIONS", 400): {
        **each(post, b"next", b"http:///next", b"http://:80/next", b"localhost:8081"),
        **each(post, b"http://user@localhost/next", b"http://[::1/next", b"ftp://a/next"),
        "an asterisk and more": request(b"OPTIONS */next HTTP/1.1"),
    },
    ("RFC 9112 3.2: a target has no control characters and no spaces", 400): {
        **each(post, b"/next\0", b"/\x1b[2J", b"/n\xc3\xa9xt", b"/next\x7f", b"/next?\x80"),
    },
    # Hosts.
    ("RFC 9112 3.2: anything but exactly one valid Host is 400", 400): {
        "no Host": host(),
        "two Hosts": host(b"Host: localhost", b"Host: localhost"),
        "two Hosts in two spellings": host(b"Host: a", b"hOST: b"),
        **each(host_value, b"a b", b"a/next", b"user@a", b"a:b", b"[::1", b"a\0b"),
        "a Host with a space before the colon": host(b"Host : localhost"),
    },
    # Headers.
    ("RFC 9112 5: a field line is a token, a colon and a value", 400): {
        **each(step, b"Name", b": value", b"Name : value", b"A name: value"),
        **each(step, b"Na\0me: value", b"N\xc3\xa4me: value", b"Name[]: value"),
    },
    ("RFC 9110 5.5: CR, LF and NUL in a value are refused; so are other controls", 400): {
        **each(step, b"Name: a\0b", b"Name: a\rb", b"Name: a\nb", b"Name: a\r"),
        **each(step, b"Name: a\nContent-Length: 5", b"Name: a\x7f", b"Name: \x0ba"),
    },
    ("RFC 9112 2.2: whitespace between the request line and the first field is 400", 400): {
        "a folded line first": b"POST /next HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n",
        "a tab first": b"POST /next HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n",
    },
    ("RFC 9112 5.2: a folded line is a space or refused; here it is refused", 400): {
        **each(folded, b" b", b"\tb", b" ", b" Content-Length: 5"),
        "a folded length": step(b"Content-Length: 1", b" 2", body=b"x" * 12),
    },
    ("RFC 6585 5: a header section that is too large is 431", 431): {
        "a long header": step(b"Name: " + LONG),
        "a header without an end": b"POST /next HTTP/1.1\r\nHost: a\r\nName: " + LONG,
        "101 headers": step(*[b"Name: value"] * 100),
        "two long headers": step(*[b"Name: " + LONG[:9000]] * 2),
    },
}

#: Requests that are parsed, by rule and status.
ACCEPTED: Rules = {
    # Request lines.
    ("RFC 9112 2.2: an empty line before a request line is ignored", 200): {
        "an empty line": b"\r\n" + step()
    },
    ("RFC 9110 9.1, 15.5.6: a method that the resource does not have is 405", 405): {
        **each(method, b"post", b"Get", b"BREW", b"DELETE", b"PATCH", b"CONNECT", b"HEAD"),
        **each(method, b"!#$%&'*+-.^_`|~9a", b"X" * 8000),
        "PUT": request(b"PUT /next HTTP/1.1", b"Content-Length: 1", body=b"x"),
        "TRACE": request(b"TRACE /next HTTP/1.1", b"Secret: 1"),
        "a POST to a read": request(b"POST /current HTTP/1.1"),
    },
    ("RFC 9112 9.3: HTTP/1.0 has one request per connection, and needs no Host", 200): {
        "HTTP/1.0": request(b"POST /next HTTP/1.0"),
        "HTTP/1.0 without a Host": b"POST /next HTTP/1.0\r\n\r\n",
    },
    ("RFC 9112 3: a request line of 8000 bytes is accepted", 200): {
        "a line of 8192 bytes": post(b"/next?" + b"x" * 8172)
    },
    # Targets.
    ("RFC 9110 15.5.5: an unknown path is 404; paths are matched literally", 404): {
        **each(post, b"//next", b"/next/", b"/NEXT", b"/next;a=b", b"/next#a", b"*"),
        **each(post, b"/%6eext", b"/next%zz", b"/next%00", b"/%c0%afnext", b"/./next"),
        **each(post, b"/%2e%2e/%2e%2e/etc/passwd", b"/../etc/passwd", b"/<script>"),
    },
    ("a path in a query is only text", 200): {
        **each(post, b"/next?file=/etc/passwd", b"/next?store=/tmp/other"),
    },
    (
        "RFC 9112 3.2.2: a server takes the absolute form, and its host instead of Host",
        200,
    ): {
        **each(post, b"http://localhost/next", b"HTTP://LOCALHOST/next"),
        **each(post, b"https://localhost/next?a=b", b"/next?limit=%00&&&=&%zz;a"),
        "absolute, another Host": post(b"http://localhost/next").replace(HOST, FOREIGN),
        "a long query of parameters": post(b"/next?" + b"a=b&" * 1900),
    },
    ("RFC 9112 3.2.1: an absolute form without a path is the root", 405): {
        **each(post, b"http://localhost", b"http://localhost?a"),
    },
    ("RFC 9112 3.2.4: OPTIONS * asks about the server", 204): {
        "OPTIONS of all": request(b"OPTIONS * HTTP/1.1")
    },
    # Hosts.
    ("RFC 9110 7.2: names that no attacker can own", 200): {
        **each(host_value, b"localhost.:8081", b"localhost:", b"[::1]:8081", b"192.0.2.7"),
    },
    ("RFC 9110 7.4: on loopback, a name that an attacker may own is 421", 421): {
        **each(host_value, b"", b"127.0.0.1.attacker.example:8081", b"localhost.."),
        "a foreign name in the target": post(b"http://attacker.example:99/next"),
    },
    # Pages of another origin, and requests that a browser sends before its user asks.
    ("Fetch Metadata: a page of another origin makes no step", 403): {
        "a form of another site": step(OTHER_SITE, b"Origin: https://attacker.example"),
        **each(step, b"Origin: https://attacker.example"),
        "a prefetch": get(b"/next", b"Sec-Purpose: prefetch;prerender"),
    },
    # Headers.
    ("RFC 9110 5.5: obs-text and tabs in a value are accepted", 200): {
        **each(step, b"Name: \x80\xff", b"Name: a\tb", b"Name:", b"Content_Length: 5"),
        "a value of spaces": step(b"Name: " + b" " * 8000),
        "an Accept of spaces": step(b"Accept: a/b" + b" " * 2000 + b"x"),
        "a hundred headers": step(*[b"Name: value"] * 99),
    },
    ("a request that only the API refuses does not close the connection", 400): {
        "two keys": step(b"Idempotency-Key: a", b"Idempotency-Key: b"),
        **each(key, b"", b"k" * 256, b" a b", b" \xc3\xa9", b" $(touch /tmp/owned)"),
        **each(get, b"/history?before=../../etc/passwd"),
    },
    ("RFC 9110 13.1.1: an unmet precondition is 412", 412): {
        "a path as a key": step(b'If-Match: "x"', b"Idempotency-Key: ../../tmp/owned"),
    },
}
