"""
The HTTP/1.1 parser.  It is strict, and takes linear time.

The parser accepts what RFC 9112 defines.  It refuses what two servers could understand in
different ways: folded headers, a bare CR or LF, a blank before a colon, a second C{Host} or
C{Content-Length}, a transfer coding other than C{chunked}.  After a refused request, the
client and the service may disagree about where the next request begins, so the service
closes the connection.

L{HeadReader} reads the head of a request, which is its request line and its headers.
L{RequestBody} skips the body, in parts that take little time.  Both raise a
L{Problem<pexservice.web.problems.Problem>} for input that they refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

from pexservice.server.generational_cache import GenerationalCache
from pexservice.web import problems
from pexservice.web.parameters import (
    CONTENT_LENGTH,
    EXPECT,
    HEADERS,
    HOST,
    TRANSFER_ENCODING,
    HeaderRole,
    RequestHeaders,
)

#: The limits of one request.  The limits of the headers also apply to the trailers of a
#: chunked body.
MAX_REQUEST_LINE_BYTES = 8192
MAX_HEADER_BYTES = 16384
MAX_HEADER_LINES = 100
MAX_REQUEST_BODY_BYTES = 65536
_MAX_LENGTH_DIGITS = len(str(MAX_REQUEST_BODY_BYTES))
MAX_CHUNKS = 1000
MAX_CHUNK_LINE_BYTES = 1024
MAX_CHUNK_SIZE_DIGITS = 16

#: How many parts of a body one call of L{RequestBody.skip} skips.  So many parts together
#: take about 40 microseconds.
MAX_PARTS_PER_CALL = 64

#: A longer line is not cached.
MAX_CACHED_LINE_BYTES = 512

#: How many lines one of the two generations of a cache has.  So the lines of a cache take
#: at most 1 MiB.
MAX_CACHED_LINES = 1024

END_OF_LINE = b"\r\n"
END_OF_HEAD = b"\r\n\r\n"
_MAX_HEAD_BYTES = MAX_REQUEST_LINE_BYTES + 2 + MAX_HEADER_BYTES + len(END_OF_HEAD)

#: Lines with these headers are not cached, because their values are secrets or rarely come
#: twice.
NEVER_CACHED_HEADERS = frozenset(
    name for name, role in HEADERS.items() if HeaderRole.NEVER_CACHED in role
)

#: The headers that the service uses.
_USED_HEADERS = frozenset(
    name for name, role in HEADERS.items() if role & ~HeaderRole.NEVER_CACHED
)

#: The value of L{Head.body_length} for a body with C{Transfer-Encoding: chunked}.
CHUNKED = -1

_TOKEN_BYTE = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]"

#: A header's value without blanks around it.
HEADER_VALUE = rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?"

_REQUEST_LINE = re.compile(rb"(%b++) ([!-~]++) (HTTP/1\.[01])" % _TOKEN_BYTE)
_HEADER_LINE = re.compile(rb"(%b++):[\t ]*+([\t\x20-\x7e\x80-\xff]*+)" % _TOKEN_BYTE)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]++)(?:;[\t\x20-\x7e\x80-\xff]*+)?")
_FIRST_BYTE = re.compile(_TOKEN_BYTE)

#: The first byte of a TLS handshake.
_TLS_HANDSHAKE = 0x16

#: The scheme and the host at the beginning of a request target that is a whole URL.
_URL_PREFIX = re.compile(rb"https?://([^/?#:][^/?#]*)", re.IGNORECASE)

#: A host and maybe a port, in the characters that RFC 3986 allows.
_HOST_VALUE = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?"
)

_BAD_REQUEST_LINE = "malformed request line; send a method, a path and HTTP/1.1"

#: A value of printable ASCII characters other than quote and backslash; see L{escaped}.
_PLAIN_VALUE = re.compile(rb"[ !#-\[\]-~]*")

#: See L{Head.plan_key}.
PlanKey = tuple[Hashable, ...]


class RequestLine(NamedTuple):
    """
    A request line.

    @ivar target: the path and the query, even if the client has sent a whole URL.
    @ivar host: the host and the port of the URL; C{None} if the client has sent no URL.
    @ivar logged_line: the line as the access log shows it.
    """

    method: bytes
    target: bytes
    path: bytes
    host: bytes | None
    version: bytes
    logged_line: bytes


class HeaderLine(NamedTuple):
    """
    A header line.

    @ivar name: the header's name in small letters.
    @ivar meaning: the parsed value, for example a media type, of a deciding header; C{None}
        for other headers.  See L{pexservice.server.plans}.
    """

    name: bytes
    value: bytes
    meaning: Hashable = None


#: Stands for all lines with headers that the service does not use.
_UNUSED_HEADER = HeaderLine(b"", b"")


class Head(NamedTuple):
    """
    The head of a request.

    @ivar plan_key: the method, the path, the version, and the meanings of the deciding
        headers.  See L{pexservice.server.plans}.
    @ivar headers: the values of all headers that the service uses.
    @ivar lines: all lines, as they arrived, without their line ends.
    @ivar uncached: the indices of the lines that were not in the reader's caches.
    @ivar body_length: the length of the body, or L{CHUNKED}.
    @ivar expects_continue: whether the client waits for C{100 Continue}.
    """

    request_line: RequestLine
    plan_key: PlanKey
    headers: RequestHeaders
    lines: list[bytes]
    uncached: list[int]
    body_length: int
    expects_continue: bool


class HeadReader:
    """
    Reads heads, and caches their lines, except those with L{NEVER_CACHED_HEADERS}.
    """

    def __init__(
        self, deciding_headers: Mapping[bytes, Callable[[Sequence[bytes]], Hashable]]
    ) -> None:
        """
        Make a reader of heads whose plan keys contain the meanings of C{deciding_headers}.

        @param deciding_headers: for each header, the function that returns the meaning of
            its values.
        """
        self._deciding_headers = deciding_headers
        # The syntax of a cached line is not checked again.  If there were one cache, a
        # request line would be accepted as a header line.
        self._request_lines = GenerationalCache[bytes, RequestLine](MAX_CACHED_LINES)
        self._header_lines = GenerationalCache[bytes, HeaderLine](MAX_CACHED_LINES)

    def read(self, head: bytes) -> Head:
        """
        Read a head.

        @param head: the head without the empty line at its end.
        @raise Problem: the head is malformed or too large.
        """
        lines = head.split(END_OF_LINE)
        uncached: list[int] = []
        line = self._request_lines.get(lines[0])
        if line is None:
            uncached.append(0)
            line = self._parse_request_line(lines[0])
        header_bytes = len(head) - len(lines[0])
        if header_bytes > MAX_HEADER_BYTES or len(lines) > 1 + MAX_HEADER_LINES:
            raise problems.too_many_headers(MAX_HEADER_BYTES, MAX_HEADER_LINES)
        headers: dict[bytes, list[bytes]] = {}
        meanings: dict[bytes, Hashable] = {}
        deciding_headers, recent_lines = self._deciding_headers, self._header_lines.recent
        for index, text in enumerate(lines[1:], 1):
            # Most lines are found without a call of the cache.
            header = recent_lines.get(text) or self._header_lines.get(text)
            if header is None:
                uncached.append(index)
                header = self._parse_header_line(text)
            if header is _UNUSED_HEADER:
                continue
            name, value, meaning = header
            values = headers.setdefault(name, [])
            values.append(value)
            if meaning is not None:
                is_single = len(values) == 1
                meanings[name] = meaning if is_single else deciding_headers[name](values)
        hosts = headers.get(HOST, ())
        if len(hosts) != 1 and (hosts or line.version == b"HTTP/1.1"):
            raise problems.malformed("missing or repeated Host header; send one")
        if line.host is not None:
            # The host of a URL counts, and not the header (RFC 9112, section 3.2.2).
            headers[HOST] = [line.host]
        plan_key = line.method, line.path, line.version, frozenset(meanings.items())
        body_length, expects_continue = 0, False
        if CONTENT_LENGTH in headers or TRANSFER_ENCODING in headers:
            body_length, expects_continue = _body_framing(headers, line.version)
        return Head(line, plan_key, headers, lines, uncached, body_length, expects_continue)

    def _parse_request_line(self, line: bytes) -> RequestLine:
        if len(line) > MAX_REQUEST_LINE_BYTES:
            raise problems.too_long_target(MAX_REQUEST_LINE_BYTES)
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise problems.malformed(_BAD_REQUEST_LINE)
        method, target, version = match.groups()
        host = None
        url_prefix = _URL_PREFIX.match(target)
        if url_prefix is not None and _HOST_VALUE.fullmatch(url_prefix[1]):
            host = url_prefix[1]
            target = target[url_prefix.end() :]
            if not target.startswith(b"/"):
                target = b"/" + target
        elif not target.startswith(b"/"):
            if method == b"CONNECT":
                raise problems.no_tunnel()
            if target != b"*":
                raise problems.malformed(
                    "malformed request target; send a path that begins with /"
                )
        path = target.partition(b"?")[0]
        logged_line = escaped(b" ".join((method, target, version)))
        request_line = RequestLine(method, target, path, host, version, logged_line)
        if len(line) <= MAX_CACHED_LINE_BYTES:
            self._request_lines.put(line, request_line)
        return request_line

    def _parse_header_line(self, line: bytes) -> HeaderLine:
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise problems.malformed(
                "malformed header line; send a name, a colon and a value on one line"
            )
        name, value = match[1].lower(), match[2].rstrip(b" \t")
        if name == HOST and not _HOST_VALUE.fullmatch(value):
            raise problems.malformed(
                "malformed Host header; send a host name and maybe a port"
            )
        header = _UNUSED_HEADER
        if name in _USED_HEADERS:
            parse = self._deciding_headers.get(name)
            header = HeaderLine(name, value, None if parse is None else parse([value]))
        if name not in NEVER_CACHED_HEADERS and len(line) <= MAX_CACHED_LINE_BYTES:
            self._header_lines.put(line, header)
        return header


def _body_framing(headers: RequestHeaders, version: bytes) -> tuple[int, bool]:
    """
    Return L{Head.body_length} and L{Head.expects_continue}.

    @raise Problem: the headers contradict each other, or the body is too large.
    """
    codings = headers.get(TRANSFER_ENCODING)
    if codings is None:
        body_length = _content_length(headers[CONTENT_LENGTH])
    elif version == b"HTTP/1.0":
        raise problems.malformed("HTTP/1.0 has no Transfer-Encoding; send Content-Length")
    elif CONTENT_LENGTH in headers:
        raise problems.malformed(
            "both Content-Length and Transfer-Encoding; send one of them"
        )
    elif [coding.lower() for coding in codings] != [b"chunked"]:
        # "identity" is refused too, because a proxy may ignore this coding.  Then the proxy
        # and the service would disagree about where the request ends.
        raise problems.malformed("unsupported Transfer-Encoding; send chunked, once")
    else:
        body_length = CHUNKED
    waits = [value.lower() for value in headers.get(EXPECT, ())] == [b"100-continue"]
    return body_length, waits and body_length != 0 and version == b"HTTP/1.1"


def _content_length(lengths: Sequence[bytes]) -> int:
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise problems.malformed("malformed Content-Length; send one number")
    # The digits are counted first, because Python cannot convert thousands of digits.
    digits = lengths[0].lstrip(b"0") or b"0"
    if len(digits) > _MAX_LENGTH_DIGITS or int(digits) > MAX_REQUEST_BODY_BYTES:
        raise problems.too_much_content(MAX_REQUEST_BODY_BYTES)
    return int(digits)


def find_head(buffer: bytearray, searched: int) -> tuple[int, int] | None:
    """
    Return the indices in C{buffer} at which the head begins and ends.

    Old clients send an empty line after a body.  So one empty line may come before the
    head.  This line and the empty line at the end are no part of the head.

    @param searched: how many bytes of C{buffer} an earlier call has searched.
    @return: the indices; C{None} if the head is incomplete.
    @raise Problem: the head is too large, or the bytes cannot be the beginning of a head.
    """
    begin = len(END_OF_LINE) if buffer.startswith(END_OF_LINE) else 0
    end = buffer.find(END_OF_HEAD, max(begin, searched - 3), begin + _MAX_HEAD_BYTES)
    if end >= 0:
        return begin, end
    if END_OF_LINE.startswith(buffer):
        return None
    if not _FIRST_BYTE.match(buffer, begin):
        if buffer[0] == _TLS_HANDSHAKE:
            raise problems.malformed(
                "this is a TLS handshake; use http:// here, not https://"
            )
        raise problems.malformed(_BAD_REQUEST_LINE)
    # The CR that ends the request line may have arrived without its LF.
    if len(buffer) - begin <= MAX_REQUEST_LINE_BYTES + len(b"\r"):
        return None
    line_end = buffer.find(
        END_OF_LINE, begin, begin + MAX_REQUEST_LINE_BYTES + len(END_OF_LINE)
    )
    if line_end < 0:
        raise problems.too_long_target(MAX_REQUEST_LINE_BYTES)
    if len(buffer) - line_end > MAX_HEADER_BYTES + len(END_OF_HEAD):
        raise problems.too_many_headers(MAX_HEADER_BYTES, MAX_HEADER_LINES)
    return None


def read_refused_head(data: bytes) -> tuple[bytes, bytes, RequestHeaders]:
    """
    Read a refused head, as far as the response and the access log need it.

    C{data} begins with the head.  Malformed lines are skipped.

    @return: the method, or C{b""} if the request line is malformed; the logged line; and
        the headers.
    """
    head = data.removeprefix(END_OF_LINE)[: MAX_REQUEST_LINE_BYTES + MAX_HEADER_BYTES]
    head, _, _ = head.partition(END_OF_HEAD)
    first, *lines = head.split(END_OF_LINE, MAX_HEADER_LINES)
    method, logged_line = b"", b"- - -"
    match = _REQUEST_LINE.fullmatch(first)
    if match is not None:
        method, logged_line = match[1], escaped(first)
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _HEADER_LINE.fullmatch(line)
        if match is not None and match[1].lower() in HEADERS:
            headers.setdefault(match[1].lower(), []).append(match[2].rstrip(b" \t"))
    return method, logged_line, headers


#: A method of L{RequestBody} that skips a part of the body.
_SkipPart = Callable[["RequestBody", bytearray, int], int]


class RequestBody:
    """
    The body of one request.  No endpoint reads a body, so it is dropped as it arrives.

    A chunked body consists of parts: for each chunk its size line, its bytes and its end;
    then the trailers.  A body with a length is one part.
    """

    def __init__(self, length: int) -> None:
        self._total = self._chunks = self._trailer_bytes = self._trailer_lines = 0
        # The method that skips the next part; None if the body is complete.  With a bound
        # method, this object would refer to itself, and wait for the garbage collection.
        self._skip_part: _SkipPart | None = RequestBody._skip_bytes
        self._skip_part_after_bytes: _SkipPart | None = None
        self._missing_bytes = length
        if length == CHUNKED:
            self._skip_part = RequestBody._skip_chunk_size
            self._skip_part_after_bytes = RequestBody._skip_end_of_chunk

    @property
    def complete(self) -> bool:
        return self._skip_part is None

    def skip(self, buffer: bytearray) -> None:
        """
        Remove bytes of the body from the beginning of C{buffer}.

        To limit the work of one call, some bytes of the body may be left in the buffer.

        @raise Problem: the body is malformed or too large.
        """
        begin = 0
        for _ in range(MAX_PARTS_PER_CALL):
            if self._skip_part is None:
                break
            end = self._skip_part(self, buffer, begin)
            if end == begin:
                break
            begin = end
        del buffer[:begin]

    # Each of the following methods checks the part that begins at an index of the buffer,
    # and returns the index after this part.  If the part needs more input, the method
    # returns C{begin}.

    def _skip_bytes(self, buffer: bytearray, begin: int) -> int:
        size = min(self._missing_bytes, len(buffer) - begin)
        self._missing_bytes -= size
        if not self._missing_bytes:
            self._skip_part = self._skip_part_after_bytes
        return begin + size

    def _skip_end_of_chunk(self, buffer: bytearray, begin: int) -> int:
        end = buffer[begin : begin + len(END_OF_LINE)]
        if not END_OF_LINE.startswith(end):
            raise problems.malformed("malformed chunk: it is longer than its size")
        if len(end) < len(END_OF_LINE):
            return begin
        self._skip_part = RequestBody._skip_chunk_size
        return begin + len(END_OF_LINE)

    def _skip_chunk_size(self, buffer: bytearray, begin: int) -> int:
        end_of_line = buffer.find(END_OF_LINE, begin, begin + MAX_CHUNK_LINE_BYTES)
        if end_of_line < 0:
            if len(buffer) - begin >= MAX_CHUNK_LINE_BYTES:
                raise problems.malformed(
                    f"malformed chunk: the line with its size is longer than"
                    f" {MAX_CHUNK_LINE_BYTES} bytes; send no extensions"
                )
            return begin
        match = _CHUNK_LINE.fullmatch(buffer, begin, end_of_line)
        if match is None:
            raise problems.malformed("malformed chunk: it must begin with its size")
        size = int(match[1], 16)
        self._missing_bytes = size
        self._total += size
        self._chunks += size > 0
        # A size of more than 16 digits is refused, because another server may keep only the
        # last 16 digits, and so see a shorter chunk.
        if (
            len(match[1]) > MAX_CHUNK_SIZE_DIGITS
            or self._total > MAX_REQUEST_BODY_BYTES
            or self._chunks > MAX_CHUNKS
        ):
            raise problems.too_many_chunks(MAX_REQUEST_BODY_BYTES, MAX_CHUNKS)
        self._skip_part = RequestBody._skip_bytes if size else RequestBody._skip_trailer
        return end_of_line + len(END_OF_LINE)

    def _skip_trailer(self, buffer: bytearray, begin: int) -> int:
        end = buffer.find(END_OF_LINE, begin, begin + MAX_HEADER_BYTES + 2)
        line_end = len(buffer) if end < 0 else end
        if (
            self._trailer_bytes + line_end - begin > MAX_HEADER_BYTES
            or self._trailer_lines > MAX_HEADER_LINES
        ):
            raise problems.too_many_headers(MAX_HEADER_BYTES, MAX_HEADER_LINES)
        if end < 0:
            return begin
        if end == begin:
            self._skip_part = None
            return end + len(END_OF_LINE)
        self._trailer_bytes += end - begin + len(END_OF_LINE)
        self._trailer_lines += 1
        if not _HEADER_LINE.fullmatch(buffer, begin, end):
            # Another server might read this line as the next request.
            raise problems.malformed("malformed trailers; send headers, or none")
        return end + len(END_OF_LINE)


def escaped(value: bytes) -> bytes:
    """
    Return C{value} escaped for use between quotes in the access log.
    """
    if _PLAIN_VALUE.fullmatch(value):
        return value
    return value.decode("latin-1").encode("unicode_escape").replace(b'"', b'\\"')
