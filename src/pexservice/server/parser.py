"""
A stricter version of Twisted's HTTP parser.

It answers what Twisted drops without a word (a long request line, a large header section, a
chunk that never ends), and refuses what RFC 9112 says to refuse and Twisted lets pass (no
C{Host}, two of them, control characters, a coding that other parsers do not know).

All that leans on private names of Twisted is here, and C{tests/unit/server/test_parser.py}
holds it against the version that is installed.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.web.http import HTTPChannel, Request
from twisted.web.server import Site

from pexservice.server.interfaces import IConnection
from pexservice.server.plain_heads import MOST_HEADERS, is_host
from pexservice.web import problems
from pexservice.web.parameters import HOST, TRANSFER_ENCODING, Arguments, read
from pexservice.web.problems import Problem

#: The longest request line, the largest header section (so is that of the trailers), and
#: the largest body, which is read and dropped.  Bytes.
LONGEST_REQUEST_LINE = 8192
LARGEST_HEADERS = 16384
LARGEST_BODY = 65536

#: What no header value may contain: all controls but the tab.
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

#: What no request line contains and Twisted lets pass.
_NOT_ASCII = re.compile(rb"[\x7f-\xff]")

#: A line of the trailers, which Twisted keeps and does not look at.
_TRAILER = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[^\x00-\x08\x0a-\x1f\x7f]*")

#: An absolute-form request target; RFC 9112 3.2.2 has servers take them.
ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)


class Parser(HTTPChannel):
    """
    The parser of one connection's requests.

    @ivar connection: the connection that they come on.
    @ivar site: the site, whose one resource answers them.
    """

    connection: IConnection
    site: Site

    maxHeaders = MOST_HEADERS
    # The longest line, which is a header of the largest size or a request line.
    MAX_LENGTH = LARGEST_HEADERS

    _header_lines = 0

    # An empty line was passed over, so the next request has begun: Twisted takes no
    # second one.
    _empty_line = False

    @property
    def is_over(self) -> bool:
        """
        Return whether nothing more is to be parsed.
        """
        raise NotImplementedError

    def refuse(self, problem: Problem) -> None:
        """
        Answer C{problem}, and nothing more on this connection.
        """
        raise NotImplementedError

    def completed(self, request: Request) -> None:
        """
        Take notice that C{request} is complete, before it is answered.
        """

    @property
    def is_answering(self) -> bool:
        """
        Return whether a request is complete and its answer is not.
        """
        return bool(self._handlingRequest)

    @property
    def is_blocked(self) -> bool:
        """
        Return whether the client does not take what is sent.
        """
        return bool(self._waitingForTransport)

    @property
    def has_input(self) -> bool:
        """
        Return whether there are bytes that were not parsed.
        """
        return bool(self._buffer or self._dataBuffer)

    @property
    def is_between_requests(self) -> bool:
        """
        Return whether no request has begun, and none is to be answered.
        """
        return not (self.requests or self._buffer or self._empty_line)

    @property
    def line(self) -> bytes:
        """
        Return the request line at hand; without one that was understood, C{b""}.
        """
        if not hasattr(self, "_command"):
            return b""
        return b" ".join((self._command, self._path, self._version))

    @property
    def is_head(self) -> bool:
        """
        Return whether the request at hand is a HEAD, as far as that is known.
        """
        return getattr(self, "_command", b"") == b"HEAD"

    def pause_reading(self) -> None:
        """
        Stop reading, so that the client has to wait with what it sends.
        """
        self._networkProducer.pauseProducing()

    def resume_reading(self) -> None:
        """
        Read again from the client.
        """
        self._networkProducer.resumeProducing()

    def arguments(self) -> Arguments:
        """
        Return the arguments of the request at hand, as far as they were read.
        """
        return read(self.requests[-1].requestHeaders) if self.requests else {}

    # The methods that Twisted calls.

    def lineReceived(self, line: bytes) -> None:
        """
        Check a line of a head, and parse it.
        """
        if self.is_over:
            return
        if self._receivedHeaderSize == 0:
            self._empty_line = not line
            if len(line) > LONGEST_REQUEST_LINE:
                self.refuse(problems.too_long_target(LONGEST_REQUEST_LINE))
                return
            if _NOT_ASCII.search(line):
                self.refuse(problems.malformed("a request line is plain ASCII"))
                return
            # Twisted counts the request line too.
            self.totalHeadersSize = len(line) + LARGEST_HEADERS
            self._header_lines = 0
        else:
            # Twisted does not count the lines of a folded header.
            self._header_lines += bool(line)
            if self._header_lines > MOST_HEADERS:
                self.refuse(problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS))
                return
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        Refuse a line that has not ended in as many bytes as the longest may have.
        """
        if self._receivedHeaderSize == 0:
            self.refuse(problems.too_long_target(LONGEST_REQUEST_LINE))
        else:
            self.refuse(problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS))

    def headerReceived(self, line: bytes) -> bool:
        """
        Check a header, maybe of several lines, and keep it.
        """
        if self.is_over:
            return False
        _, _, value = line.partition(b":")
        if _CONTROLS.search(value):
            self.refuse(problems.malformed("a header has a control character in it"))
            return False
        try:
            taken: bool = super().headerReceived(line)
        except ValueError:
            # A Content-Length of more digits than Python reads.
            self.refuse(problems.too_much_content(LARGEST_BODY))
            return False
        return taken

    def allHeadersReceived(self) -> None:
        """
        Check a head, which is complete.
        """
        if self.is_over:
            return
        problem = self._flaw()
        if problem is not None:
            self.refuse(problem)
            return
        decoder: Any = self._transferDecoder
        if hasattr(decoder, "_maxTrailerHeadersSize"):
            decoder._maxTrailerHeadersSize = LARGEST_HEADERS  # noqa: SLF001 it is here
        super().allHeadersReceived()

    def _flaw(self) -> Problem | None:
        arguments = self.arguments()
        hosts = arguments.get(HOST, ())
        if len(hosts) > 1 or (not hosts and self._version == b"HTTP/1.1"):
            return problems.malformed("a request has one Host header")
        if hosts and not is_host(hosts[0]):
            return problems.malformed("the Host header is not a host")
        problem = self._flaw_of_target()
        if problem is not None:
            return problem
        coding = self._flaw_of_coding(arguments)
        if coding is not None:
            return problems.malformed(coding)
        if self.length is not None and self.length > LARGEST_BODY:
            return problems.too_much_content(LARGEST_BODY)
        return None

    def _flaw_of_target(self) -> Problem | None:
        target = self._path
        if target.startswith(b"/") or ABSOLUTE.match(target):
            return None
        if self._command == b"CONNECT":
            return problems.no_tunnel()
        if target == b"*":
            return None
        return problems.malformed("a request target is a path, or http:// and a host")

    def _flaw_of_coding(self, arguments: Arguments) -> str | None:
        coding = arguments.get(TRANSFER_ENCODING, ())
        if not coding:
            return None
        if [each.lower() for each in coding] != [b"chunked"]:
            # "identity" too: other parsers do not know it, and would see another end.
            return "the one Transfer-Encoding is chunked"
        if self._version == b"HTTP/1.0":
            return "HTTP/1.0 has no Transfer-Encoding"
        # With a Content-Length besides, Twisted refuses it.
        return None

    def allContentReceived(self) -> None:
        """
        Check the trailers of a request, which is complete, and answer it.
        """
        if self.is_over:
            return
        trailers = getattr(self._transferDecoder, "_trailerHeaders", ())
        if len(trailers) > MOST_HEADERS:
            self.refuse(problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS))
        elif all(map(_TRAILER.fullmatch, trailers)):
            self.completed(self.requests[-1])
            super().allContentReceived()
        else:
            # Another parser may have seen the end of the body before these lines.
            self.refuse(problems.malformed("the trailers are not headers"))

    def rawDataReceived(self, data: bytes) -> None:
        """
        Take a part of a body, or input that comes after the request being answered.
        """
        if self.is_over:
            return
        super().rawDataReceived(data)
        # In a chunk, this is the part still to come: Twisted would wait for all of it.
        awaited = getattr(self._transferDecoder, "length", None)
        if awaited is not None and awaited > LARGEST_BODY and not self.is_over:
            self.refuse(problems.too_much_content(LARGEST_BODY))

    def _send100Continue(self) -> None:
        """
        Ask for the body if there is one: Twisted asks whenever a client expects that.
        """
        if self.length != 0:
            super()._send100Continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """
        Refuse input that Twisted could not parse, for the reason that the counts show.
        """
        # Among the trailers, nothing else goes wrong.
        in_trailers = getattr(self._transferDecoder, "state", None) == "TRAILER"
        if (
            in_trailers
            or self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        ):
            self.refuse(problems.too_many_headers(LARGEST_HEADERS, MOST_HEADERS))
        else:
            self.refuse(problems.malformed("this is not a request as HTTP/1.1 has them"))
