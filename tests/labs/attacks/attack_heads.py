"""
Attacks in the head of a request: request line, target, Host and other headers.
"""

from __future__ import annotations

from tests.labs.attacks.attacking import Rules, get, request, step

LONG = b"x" * 20_000
HOST, FOREIGN = b"Host: localhost", b"Host: attacker.example"
OWN_SITE, OTHER_SITE = b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Site: cross-site"


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


#: Requests that are refused, by rule and status.
REFUSED: Rules = {
    # Request lines.
    ("RFC 9112 3: a request line is method SP target SP version, else 400", 400): {
        "nothing but spaces": b"   \r\n\r\n",
        "a method alone": request(b"POST"),
        "no version, as HTTP/0.9": request(b"POST /next"),
        "no target": request(b"POST  HTTP/1.1"),
        "two spaces": request(b"POST  /next HTTP/1.1"),
        "two spaces before the version": request(b"POST /next  HTTP/1.1"),
        "a space before the method": request(b" POST /next HTTP/1.1"),
        "a space after the version": request(b"POST /next HTTP/1.1 "),
        "a tab between": request(b"POST\t/next HTTP/1.1"),
        "a tab before the version": request(b"POST /next\tHTTP/1.1"),
        "a vertical tab between": request(b"POST\x0b/next HTTP/1.1"),
        "a form feed between": request(b"POST /next\x0cHTTP/1.1"),
        "a word too many": request(b"POST /next /next HTTP/1.1"),
        "a space in the target": request(b"POST /next HTTP/1.1 HTTP/1.1"),
        "only a colon": request(b":"),
        "a response": request(b"HTTP/1.1 200 OK"),
    },
    ("RFC 9112 2.2: at least one empty line is ignored, but not many", 400): {
        "two empty lines": b"\r\n\r\n" + step(),
        "many": b"\r\n" * 1000 + step(),
    },
    ("RFC 9112 2.2: a bare CR is no line end: 400 or a space", 400): {
        "a CR within the line": request(b"POST /next\rHTTP/1.1"),
        "a CR before the line's end": request(b"POST /next HTTP/1.1\r"),
        "CR only": b"POST /next HTTP/1.1\rHost: localhost\r\r",
        "LF and CR": b"POST /next HTTP/1.1\n\rHost: localhost\n\r\n\r\r\n\r\n",
    },
    ("RFC 9112 2.2: a bare LF may end a line; here it is refused", 400): {
        "a LF after the line": b"POST /next HTTP/1.1\nHost: localhost\r\n\r\n",
        "LF only": b"POST /next HTTP/1.1\nHost: localhost\n\n",
        "a LF within the line": request(b"POST /next\nHTTP/1.1"),
        "a LF before the method": b"\n" + step(),
    },
    ("RFC 9110 9.1: a method is a token", 400): {
        "a parenthesis in the method": request(b"PO(ST /next HTTP/1.1"),
        "a null in the method": request(b"PO\0ST /next HTTP/1.1"),
        "a quote around the method": request(b'"POST" /next HTTP/1.1'),
        "bytes over 127 in the method": request(b"PO\xc3\x9fT /next HTTP/1.1"),
        "a colon in the method": request(b"POST: /next HTTP/1.1"),
    },
    ("RFC 9112 2.3: the version is HTTP/1.0 or HTTP/1.1 in capitals", 400): {
        "lower case version": request(b"POST /next http/1.1"),
        "HTTP/0.9": request(b"POST /next HTTP/0.9"),
        "HTTP/1.2": request(b"POST /next HTTP/1.2"),
        "HTTP/1": request(b"POST /next HTTP/1"),
        "HTTP/1.": request(b"POST /next HTTP/1."),
        "HTTP/1.10": request(b"POST /next HTTP/1.10"),
        "HTTP/01.1": request(b"POST /next HTTP/01.1"),
        "HTTP/11": request(b"POST /next HTTP/11"),
        "HTTP/2.0": request(b"POST /next HTTP/2.0"),
        "HTTP/9.9": request(b"POST /next HTTP/9.9"),
        "another protocol": request(b"POST /next SPDY/3"),
        "a version with a sign": request(b"POST /next HTTP/+1.1"),
        "a version with a comma": request(b"POST /next HTTP/1,1"),
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "a line of a proxy's protocol": b"PROXY TCP4 127.0.0.1 1 2 3\r\n" + step(),
        "SOCKS": b"\x05\x01\x00\r\n\r\n",
    },
    ("RFC 9112 3: a request line that is too long is 414", 414): {
        "a line of 8193 bytes": post(b"/next?" + b"x" * 8173),
        "a long target": post(b"/next?" + LONG),
        "a long line of nothing": LONG + b"\r\n\r\n",
        "a line without an end": b"POST /next?" + LONG,
        "a long method only": LONG,
    },
    # Targets.
    ("RFC 9110 9.3.6: a server that is no proxy opens no tunnel", 405): {
        "CONNECT to a host": request(b"CONNECT localhost:80 HTTP/1.1")
    },
    ("RFC 9112 3.2: a target is a path, an http URL, or the asterisk of OPTIONS", 400): {
        "no slash": post(b"next"),
        "a query only": post(b"?next"),
        "a scheme only": post(b"http:"),
        "no authority": post(b"http:///next"),
        "an authority without a host": post(b"http://:80/next"),
        "an authority with a user": post(b"http://user@localhost/next"),
        "an authority with half a bracket": post(b"http://[::1/next"),
        "another scheme": post(b"ftp://localhost/next"),
        "a file's scheme": post(b"file:///etc/passwd"),
        "a script's scheme": post(b"javascript:alert(1)"),
        "an authority": post(b"localhost:8081"),
        "an asterisk and more": request(b"OPTIONS */next HTTP/1.1"),
        "an IPv6 authority without brackets": post(b"::1"),
    },
    ("RFC 9112 3.2: a target has no control characters and no spaces", 400): {
        "a null": post(b"/next\0"),
        "a bell": post(b"/next\x07"),
        "an escape": post(b"/\x1b[2J"),
        "bytes of UTF-8": post(b"/n\xc3\xa9xt"),
        "a byte of 255": post(b"/next\xff"),
        "a byte of 128": post(b"/next\x80"),
        "a delete": post(b"/next\x7f"),
        "a byte of 128 in a query": post(b"/next?\x80"),
    },
    # Hosts.
    ("RFC 9112 3.2: anything but exactly one valid Host is 400", 400): {
        "no Host": host(),
        "two Hosts": host(b"Host: localhost", b"Host: localhost"),
        "two different Hosts": host(b"Host: a", b"Host: b"),
        "Hosts in two spellings": host(b"Host: a", b"hOST: b"),
        "Hosts far apart": host(b"Host: a", b"Accept: */*", b"X: y", b"Host: b"),
        "a Host with a space": host(b"Host: a b"),
        "a Host with a comma and a space": host(b"Host: a, b"),
        "a Host with a path": host(b"Host: a/next"),
        "a Host with a scheme": host(b"Host: http://a"),
        "a Host with a user": host(b"Host: user@a"),
        "a Host with a query": host(b"Host: a?b"),
        "a Host with a fragment": host(b"Host: a#b"),
        "a Host with a backslash": host(b"Host: a\\b"),
        "a Host with a port of letters": host(b"Host: a:b"),
        "a Host with two ports": host(b"Host: a:1:2"),
        "a Host with half a bracket": host(b"Host: [::1"),
        "a Host with a null": host(b"Host: a\0b"),
        "a Host with bytes over 127": host(b"Host: b\xc3\xbccher"),
        "a Host with markup": host(b"Host: <a>"),
        "a Host with a space before the colon": host(b"Host : localhost"),
        "a Host of two lines": host(b"Host: a", b" b"),
        "a Host after a space": host(b" Host: localhost"),
    },
    # Headers.
    ("RFC 9112 5: a field line is a token, a colon and a value", 400): {
        "no colon": step(b"Name"),
        "no name": step(b": value"),
        "a space before the colon": step(b"Name : value"),
        "a tab before the colon": step(b"Name\t: value"),
        "a space in a name": step(b"A name: value"),
        "a null in a name": step(b"Na\0me: value"),
        "a CR in a name": step(b"Na\rme: value"),
        "a LF in a name": step(b"Na\nme: value"),
        "bytes over 127 in a name": step(b"N\xc3\xa4me: value"),
        "brackets in a name": step(b"Name[]: value"),
        "a slash in a name": step(b"Na/me: value"),
        "a quote in a name": step(b'"Name": value'),
    },
    ("RFC 9110 5.5: CR, LF and NUL in a value are refused; so are other controls", 400): {
        "a null in a value": step(b"Name: a\0b"),
        "a CR in a value": step(b"Name: a\rb"),
        "a LF in a value": step(b"Name: a\nb"),
        "a LF and a header": step(b"Name: a\nContent-Length: 5"),
        "a CR and a header": step(b"Name: a\rTransfer-Encoding: chunked"),
        "a value that ends in a CR": step(b"Name: a\r"),
        "a backspace": step(b"Name: a\x08b"),
        "an escape in a value": step(b"Name: a\x1b[2J"),
        "a delete in a value": step(b"Name: a\x7f"),
        "a vertical tab before a value": step(b"Name: \x0ba"),
    },
    ("RFC 9112 2.2: whitespace between the request line and the first field is 400", 400): {
        "a folded line first": b"POST /next HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n",
        "a tab first": b"POST /next HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n",
        "an empty folded line first": b"POST /next HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
    },
    ("RFC 9112 5.2: a folded line is a space or refused; here it is refused", 400): {
        "folded": step(b"Name: a", b" b"),
        "folded with a tab": step(b"Name: a", b"\tb"),
        "folded, empty": step(b"Name:", b" "),
        "folded, like a length": step(b"Name: a", b" Content-Length: 5"),
        "folded, like a step": step(b"X: a", b" POST /next HTTP/1.1"),
    },
    ("RFC 9112 5.2: a folded line smuggles nothing in", 400): {
        "folded, with a null": step(b"Name: a", b" \0"),
        "folded, with a CR": step(b"Name: a", b" b\rc"),
        "a folded length": step(b"Content-Length: 1", b" 2", body=b"x" * 12),
    },
    ("RFC 6585 5: a header section that is too large is 431", 431): {
        "a long header": step(b"Name: " + LONG),
        "a long name": step(LONG + b": value"),
        "a header without an end": b"POST /next HTTP/1.1\r\nHost: a\r\nName: " + LONG,
        "101 headers": step(*[b"Name: value"] * 100),
        "10,000 headers": step(*[b"a:"] * 10_000),
        "a header of 200 lines": step(b"Name: value", *[b" more"] * 200),
        "two long headers": step(*[b"Name: " + LONG[:9000]] * 2),
        "a long header of folded lines": step(b"a: b", *[b" " + LONG[:5000]] * 4),
        "long cookies": step(*[b"Cookie: " + LONG[:4000]] * 5),
    },
}

#: Requests that are parsed, by rule and status.
ACCEPTED: Rules = {
    # Request lines.
    ("RFC 9112 2.2: an empty line before a request line is ignored", 200): {
        "an empty line": b"\r\n" + step()
    },
    ("RFC 9110 9.1, 15.5.6: a method that the resource does not have is 405", 405): {
        "lower case": request(b"post /next HTTP/1.1"),
        "mixed case": request(b"Get /next HTTP/1.1"),
        "BREW": request(b"BREW /next HTTP/1.1"),
        "PUT": request(b"PUT /next HTTP/1.1", b"Content-Length: 1", body=b"x"),
        "DELETE": request(b"DELETE /next HTTP/1.1"),
        "PATCH": request(b"PATCH /next HTTP/1.1"),
        "TRACE": request(b"TRACE /next HTTP/1.1", b"Secret: 1"),
        "CONNECT to a path": request(b"CONNECT /next HTTP/1.1"),
        "HEAD of a step": request(b"HEAD /next HTTP/1.1"),
        "a POST to a read": request(b"POST /current HTTP/1.1"),
        "a method of every character": request(b"!#$%&'*+-.^_`|~9a /next HTTP/1.1"),
        "a long method": request(b"X" * 8000 + b" /next HTTP/1.1"),
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
        "two slashes": post(b"//next"),
        "a slash after": post(b"/next/"),
        "an encoded letter": post(b"/%6eext"),
        "an encoded slash": post(b"/%2fnext"),
        "encoded twice": post(b"/%256eext"),
        "half an encoding": post(b"/next%"),
        "an encoding of nothing": post(b"/next%zz"),
        "an encoded null": post(b"/next%00"),
        "an overlong slash": post(b"/%c0%afnext"),
        "a dot in the path": post(b"/./next"),
        "two dots": post(b"/../next"),
        "two dots after": post(b"/next/../next"),
        "a file of the machine": post(b"/../../../../etc/passwd"),
        "a file, encoded": post(b"/%2e%2e/%2e%2e/etc/passwd"),
        "a file, with backslashes": post(b"/..\\..\\etc\\passwd"),
        "a parameter of the path": post(b"/next;a=b"),
        "a fragment": post(b"/next#a"),
        "capitals in the path": post(b"/NEXT"),
        "an asterisk with POST": post(b"*"),
        "quotes in the path": post(b"/'+or+1=1--"),
        "markup": post(b"/<script>alert(1)</script>"),
    },
    (
        "RFC 9112 3.2.2: a server takes the absolute form, and its host instead of Host",
        200,
    ): {
        "absolute": post(b"http://localhost/next"),
        "absolute, capitals": post(b"HTTP://LOCALHOST/next"),
        "absolute, another Host": post(b"http://localhost/next").replace(HOST, FOREIGN),
        "absolute, with a query": post(b"https://localhost/next?a=b"),
        "a query": post(b"/next?limit=%00&&&=&%zz;a"),
        "a long query of parameters": post(b"/next?" + b"a=b&" * 1900),
    },
    ("RFC 9112 3.2.1: an absolute form without a path is the root", 405): {
        "absolute, without a path": post(b"http://localhost"),
        "absolute, with a query alone": post(b"http://localhost?a"),
    },
    ("RFC 9112 3.2.4: OPTIONS * asks about the server", 204): {
        "OPTIONS of all": request(b"OPTIONS * HTTP/1.1")
    },
    # Hosts.
    ("RFC 9110 7.2: names that no attacker can own", 200): {
        "a Host in capitals": host(b"HOST: LOCALHOST"),
        "a Host with a final dot": host(b"Host: localhost.:8081"),
        "a name below localhost": host(b"Host: app.localhost"),
        "an address": host(b"Host: [::1]:8081"),
        "another address": host(b"Host: 192.0.2.7"),
        "a port without a number": host(b"Host: localhost:"),
    },
    ("RFC 9110 7.4: on loopback, a name that an attacker may own is 421", 421): {
        "an empty Host": host(b"Host:"),
        "a foreign name": host(b"Host: metadata.example.internal"),
        "a name that resolves to 127.0.0.1": host(b"Host: attacker.example:8081"),
        "an address and a name": host(b"Host: 127.0.0.1.attacker.example"),
        "a name with the suffix localhost": host(b"Host: notlocalhost"),
        "a number that is an address": host(b"Host: 2130706433"),
        "a Host of two dots": host(b"Host: localhost.."),
        "a foreign name in the target": post(b"http://attacker.example:99/next"),
    },
    # Pages of another origin, and requests that a browser sends before its user asks.
    ("Fetch Metadata: a page of another origin makes no step", 403): {
        "a form of another site": step(OTHER_SITE, b"Origin: https://attacker.example"),
        "an image of another site": get(b"/next", OTHER_SITE),
        "another port of this host": step(b"Sec-Fetch-Site: same-site"),
        "two sites": step(OWN_SITE, OTHER_SITE),
        "a site in capitals": step(b"Sec-Fetch-Site: SAME-ORIGIN"),
        "no site": step(b"Sec-Fetch-Site:"),
        "an origin of another host": step(b"Origin: https://attacker.example"),
        "an origin of another port": step(b"Origin: http://localhost:8082"),
        "an origin that is hidden": step(b"Origin: null"),
        "two origins": step(b"Origin: http://localhost", b"Origin: http://a.example"),
        "a prefetch": get(b"/next", b"Sec-Purpose: prefetch;prerender"),
        "a stream for another site": get(b"/events", OTHER_SITE),
    },
    ("Fetch Metadata: the service's own page and an address bar may make steps", 200): {
        "the service's page": step(OWN_SITE, b"Origin: http://localhost"),
        "the service's page in an old browser": step(b"Origin: https://LOCALHOST"),
        "an address bar": get(b"/next", b"Sec-Fetch-Site: none"),
    },
    # Headers.
    ("RFC 9110 5.5: obs-text and tabs in a value are accepted", 200): {
        "bytes over 127": step(b"Name: \x80\xff"),
        "a tab": step(b"Name: a\tb"),
        "no value": step(b"Name:"),
        "a value of spaces": step(b"Name: " + b" " * 8000),
        "an Accept of spaces": step(b"Accept: a/b" + b" " * 2000 + b"x"),
        "a name of underscores": step(b"Content_Length: 5"),
        "a hundred headers": step(*[b"Name: value"] * 99),
    },
    ("a request that only the API refuses does not close the connection", 400): {
        "two keys": step(b"Idempotency-Key: a", b"Idempotency-Key: b"),
        "an empty key": step(b"Idempotency-Key:"),
        "a long key": step(b"Idempotency-Key: " + b"k" * 256),
        "a key with a space": step(b"Idempotency-Key: a b"),
        "a key over 127": step(b"Idempotency-Key: \xc3\xa9"),
        "an invalid precondition": step(b"If-Match: 1"),
        "a limit of letters": get(b"/history?limit=x"),
        "a limit of 5000 digits": get(b"/history?limit=" + b"9" * 5000),
        "a negative limit": get(b"/history?limit=-1"),
        "a limit in other digits": get(b"/history?limit=%D9%A1"),
    },
}
