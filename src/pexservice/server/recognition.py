"""
Recognition: the server finds a request by its bytes, and need not parse it.

This only saves time: the L{plan<pexservice.server.plans.Plan>} and the response are those
of a parsed request.  A request is recognized in two cases:

  - Its bytes are in the L{RequestCache}, because the same bytes arrived before.
  - Its bytes match a L{Template}, because they differ from those of an earlier request in a
    few neighbouring lines only.  For example::

          prefix          POST /next HTTP/1.1
                          Host: localhost:8081
                          User-Agent: python-requests/2.32.3
                          Accept: application/json
          varying lines   Idempotency-Key: 8e03978e-40d5-43e8-bc93-6894a57f9324
                          X-Request-ID: 4f6dc1e2
          suffix          Content-Type: application/json
                          Content-Length: 2

                          {}

    The prefix and the suffix are compared as a whole.  Of the varying lines, the service
    reads the value of the idempotency key, and ignores the other line.

Parsed requests prepare this.  The parser also has caches, which have single lines:

  - A request whose bytes come a second time is put into the request cache, if its lines
    were in the parser's caches or if it matched a template.
  - If two requests, one after the other, have new lines with the same header names, a
    template is made.

The connections share the cache, and a new connection uses the templates of other ones, so
the earlier request may be another client's.  This is safe: a varying line never decides the
plan, and if the service needs its value, it takes the value from the request itself.

The memory for bytes and templates is bounded, whatever clients send.  An idempotency key is
never remembered here, and a secret only in L{Recognizer.accepted_request}.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hmac import compare_digest

from attrs import frozen

from pexservice.server.parser import (
    END_OF_LINE,
    HEADER_VALUE,
    GenerationalCache,
    Head,
    RequestHeaders,
)
from pexservice.server.plans import PreparedRequest
from pexservice.web.operations import RequestChecker
from pexservice.web.parameters import AUTHORIZATION, HEADERS, HOST, HeaderRole
from pexservice.web.problems import Problem

#: How many requests one generation of L{RequestCache.by_bytes} has; see
#: L{GenerationalCache}.  The bytes of the requests in both generations take at most 8 MiB.
MAX_CACHED_REQUESTS = 1024

#: A larger request is not recognized.
MAX_RECOGNIZED_BYTES = 4096

#: How many bytes a template has before and after its varying lines.
MAX_TEMPLATE_BYTES = 2048

#: How many lines of a template may vary.
MAX_VARYING_LINES = 4

#: How many templates a connection remembers.
MAX_TEMPLATES = 2

#: How many templates are made in a second, for all connections together.  Making a template
#: takes as long as parsing several heads.
MAX_NEW_TEMPLATES_PER_SECOND = 256

#: The lines with these headers never vary in a template.
_FIXED_HEADERS = frozenset(
    name
    for name, role in HEADERS.items()
    if name == HOST or role & (HeaderRole.DECIDES | HeaderRole.FRAMES)
)

#: The bytes of a request with these headers are not cached.
_NEVER_CACHED = frozenset(
    name for name, role in HEADERS.items() if HeaderRole.NEVER_CACHED in role
)


@frozen(eq=False)
class Template:
    """
    A pattern of requests that differ in a few neighbouring header lines only.

    @ivar prefix: the bytes before the varying lines.
    @ivar suffix: the bytes after the varying lines.
    @ivar varying_pattern: matches the varying lines, with a group for each value that the
        service reads.
    @ivar read_names: the names of the headers with these values, in the order of the
        groups.
    @ivar common_request: the request without the headers of the varying lines.
    @ivar may_repeat: whether the bytes of a request that matches may come again, so that
        they are remembered.
    """

    prefix: bytes
    suffix: bytes
    varying_pattern: re.Pattern[bytes]
    read_names: tuple[bytes, ...]
    common_request: PreparedRequest
    may_repeat: bool

    def match(self, data: bytes) -> PreparedRequest | None:
        """
        Return the request with the bytes C{data}, or C{None} if the bytes do not match.
        """
        if not (data.startswith(self.prefix) and data.endswith(self.suffix)):
            return None
        match = self.varying_pattern.fullmatch(
            data, len(self.prefix), len(data) - len(self.suffix)
        )
        if match is None:
            return None
        request, names = self.common_request, self.read_names
        if not names:
            return request
        headers = request.headers.copy()
        for name, value in zip(names, match.groups(), strict=True):
            headers[name] = [value]
        return PreparedRequest(
            request.format, headers, request.logged_line, request.planned_operation
        )


class RequestCache:
    """
    The requests that all connections of one worker remember together.

    @ivar by_bytes: the requests by their exact bytes.
    @ivar latest_templates: the latest templates of all connections.  These and the latest
        names help clients that open a connection for each request.
    @ivar latest_names: the latest value of L{Recognizer.latest_names}.
    @ivar new_templates: how many templates were made in this second.
    @ivar is_stopped: whether no request is recognized any more.
    """

    def __init__(self, checker: RequestChecker) -> None:
        self._checker = checker
        self.by_bytes: GenerationalCache[bytes, PreparedRequest] = GenerationalCache(
            MAX_CACHED_REQUESTS
        )
        # The hashes of requests that have arrived once.  Requests that are never repeated
        # do not displace cached requests.
        self._seen_once: GenerationalCache[int, bool] = GenerationalCache(
            MAX_CACHED_REQUESTS
        )
        self.latest_templates: tuple[Template, ...] = ()
        self.latest_names: tuple[bytes, ...] = ()
        self.new_templates = 0
        self.is_stopped = False

    def tick(self) -> None:
        """
        Begin another second, in which L{MAX_NEW_TEMPLATES_PER_SECOND} may be made.
        """
        self.new_templates = 0

    def stop(self) -> None:
        """
        Forget everything, and remember nothing more.
        """
        self.is_stopped = True
        self.latest_templates = ()
        self.by_bytes.clear()

    def add_if_repeated(self, data: bytes, request: PreparedRequest) -> None:
        """
        At the second call with these bytes, remember C{request} if it passes the check.
        """
        if not self._seen_once.get(hash(data)):
            self._seen_once.put(hash(data), True)  # noqa: FBT003 only the key counts
        elif self.check_once(request):
            self.by_bytes.put(data, request)

    def add_template(self, template: Template) -> None:
        self.new_templates += 1
        others = self.latest_templates[: MAX_TEMPLATES - 1]
        self.latest_templates = template, *others

    def check_once(self, request: PreparedRequest) -> bool:
        """
        Check the operation of C{request}, and store the result in C{request}.

        A problem is dropped here.  L{Connection.perform
        <pexservice.server.connection.Connection.perform>} finds it again after it has
        checked the rate and the C{Host}, whose problems the client must get first.

        @return: whether C{request} now has the checked operation.
        """
        operation = request.planned_operation
        assert operation is not None  # noqa: S101 for the type checker
        try:
            request.checked_operation = self._checker.check_operation(
                operation, request.headers
            )
        except Problem:
            return False
        return True


class Recognizer:
    """
    Recognizes the requests of one connection.

    @ivar templates: the templates of the connection's requests, the latest one first.
    @ivar latest_names: the header names of those lines of the latest parsed request that
        were not in the parser's caches.
    @ivar accepted_request: the latest request with an accepted token and no key: its exact
        bytes, and the request.  A client sends the same token with every step, and the
        check of the token takes a quarter of the CPU time of such a step.
    """

    # There may be 10,000 idle connections.
    __slots__ = ("_cache", "accepted_request", "latest_names", "templates")

    def __init__(self, cache: RequestCache) -> None:
        self._cache = cache
        self.templates: tuple[Template, ...] = ()
        self.latest_names: tuple[bytes, ...] = ()
        self.accepted_request: tuple[bytes, PreparedRequest] | None = None

    def recognize(self, data: bytes) -> PreparedRequest | None:
        """
        Return the request with the bytes C{data}, if it is recognized.

        A connection without templates uses the latest templates of the worker.
        """
        cache = self._cache
        if cache.is_stopped or len(data) > MAX_RECOGNIZED_BYTES:
            return None
        accepted = self.accepted_request
        # The duration of compare_digest tells a client nothing about the token.
        if accepted is not None and compare_digest(accepted[0], data):
            return accepted[1]
        templates = self.templates
        for template in templates or cache.latest_templates:
            request = template.match(data)
            if request is not None:
                if not templates or templates[0] is not template:
                    self._move_to_front(template)
                if template.may_repeat:
                    self._remember_match(template, data, request)
                return request
        return cache.by_bytes.get(data)

    def _move_to_front(self, template: Template) -> None:
        others = [other for other in self.templates if other is not template]
        self.templates = (template, *others[: MAX_TEMPLATES - 1])

    def _remember_match(
        self, template: Template, data: bytes, request: PreparedRequest
    ) -> None:
        if template.read_names != (AUTHORIZATION,):
            self._cache.add_if_repeated(data, request)
        elif self._cache.check_once(request):
            self.accepted_request = data, request

    def remember(self, data: bytes, head: Head, request: PreparedRequest) -> None:
        """
        Prepare to recognize requests that are similar to a parsed request.

        @param data: the exact bytes of the request.
        """
        cache = self._cache
        if cache.is_stopped or len(data) > MAX_RECOGNIZED_BYTES:
            return
        if head.uncached_lines is None:
            cache.add_if_repeated(data, request)
            return
        first, last = head.uncached_lines
        # A request line never varies in a template.
        if first > 0 and last - first < MAX_VARYING_LINES:
            self._remember_template(data, head.lines, first, last + 1, request)

    def _remember_template(
        self, data: bytes, head: list[bytes], begin: int, end: int, request: PreparedRequest
    ) -> None:
        """
        Make a template if the lines from C{begin} to C{end} have the same names as before.

        @param head: all lines of the request's head.
        """
        cache, lines = self._cache, head[begin:end]
        names = tuple([line.partition(b": ")[0] for line in lines])
        # A new connection uses the names of another connection's last request.
        last_names = self.latest_names or cache.latest_names
        self.latest_names = cache.latest_names = names
        if names != last_names or cache.new_templates >= MAX_NEW_TEMPLATES_PER_SECOND:
            return
        prefix = END_OF_LINE.join([*head[:begin], b""])
        suffix = data[len(prefix) + len(END_OF_LINE.join(lines)) :]
        if len(prefix) + len(suffix) > MAX_TEMPLATE_BYTES or not all(
            _may_vary(line, request.headers) for line in lines
        ):
            return
        template = _make_template(prefix, suffix, names, request)
        if not template.read_names:
            cache.check_once(template.common_request)
        self._move_to_front(template)
        cache.add_template(template)


def _make_template(
    prefix: bytes, suffix: bytes, names: tuple[bytes, ...], request: PreparedRequest
) -> Template:
    """
    Return the template of C{request}.

    @param names: the header names of the varying lines.
    """
    headers, keys = request.headers, [name.lower() for name in names]
    read_names = tuple([key for key in keys if key in headers])
    common_headers = {key: headers[key] for key in headers if key not in read_names}
    is_cached = bool(read_names) and _NEVER_CACHED.isdisjoint(keys)
    return Template(
        prefix,
        suffix,
        varying_pattern=_compile_pattern(names, read_names),
        read_names=read_names,
        common_request=PreparedRequest(
            request.format, common_headers, request.logged_line, request.planned_operation
        ),
        may_repeat=is_cached or read_names == (AUTHORIZATION,),
    )


def _may_vary(line: bytes, headers: RequestHeaders) -> bool:
    """
    Return whether a header line of a request may vary in a template.

    The line must have the form C{name: value}.  If the service reads the header, no other
    line may have the same name.

    @param headers: the headers of the request.
    """
    name, separator, _ = line.partition(b": ")
    key = name.lower()
    is_single = len(headers.get(key, (b"",))) == 1
    return bool(separator) and key not in _FIXED_HEADERS and is_single


@lru_cache(maxsize=256)
def _compile_pattern(
    names: tuple[bytes, ...], read_names: tuple[bytes, ...]
) -> re.Pattern[bytes]:
    """
    Return a pattern of header lines with these names.

    @param read_names: the names in small letters of those headers whose values are groups
        of the pattern.
    """
    lines = [
        re.escape(name)
        + (b": (%b)" if name.lower() in read_names else b": %b") % HEADER_VALUE
        for name in names
    ]
    return re.compile(b"\r\n".join(lines))
